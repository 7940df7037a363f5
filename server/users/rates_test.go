package users

import (
	"errors"
	"reflect"
	"testing"
)

func TestRatesAreASingleUsersAndKept(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna"))
	must(t, s.AddUser(ctx, "bert"))
	must(t, s.SetUserDisabled(ctx, "bert", true))
	must(t, s.ChangeRates(ctx, "anna", func(r *Rates) { r.RateUp, r.CeilingDown = new(int64(1000)), new(int64(0)) }))
	must(t, s.ChangeRates(ctx, "anna", func(r *Rates) { r.RateDown = new(int64(MaxRate)) }))
	must(t, s.ChangeRates(ctx, "bert", func(r *Rates) { r.CeilingUp, r.Weight = new(int64(5)), new(int64(MaxWeight)) }))
	want := map[string]Rates{
		"anna": {RateUp: new(int64(1000)), RateDown: new(int64(MaxRate)), CeilingDown: new(int64(0))},
		"bert": {CeilingUp: new(int64(5)), Weight: new(int64(MaxWeight))},
	}
	if got, err := reopen(t, s).Rates(ctx); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	must(t, s.ChangeRates(ctx, "anna", func(r *Rates) { *r = Rates{} }))
	must(t, s.RemoveUser(ctx, "bert"))
	if got, err := s.Rates(ctx); err != nil || len(got) != 0 {
		t.Errorf("what is left: %+v, %v", got, err)
	}
}

func TestRatesThatCannotBeChangeNothing(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna"))
	for _, n := range []int64{-1, MaxRate + 1} {
		if err := s.ChangeRates(ctx, "anna", func(r *Rates) { r.RateUp = &n }); err == nil {
			t.Errorf("%d bit/s are taken", n)
		}
	}
	for _, n := range []int64{-1, 0, MaxWeight + 1} {
		if err := s.ChangeRates(ctx, "anna", func(r *Rates) { r.Weight = &n }); err == nil {
			t.Errorf("a weight of %d is taken", n)
		}
	}
	if err := s.ChangeRates(ctx, "carl", func(*Rates) {}); !errors.Is(err, ErrUserUnknown) {
		t.Errorf("for nobody: %v", err)
	}
	if got, err := s.Rates(ctx); err != nil || len(got) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}
