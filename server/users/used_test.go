package users

import (
	"slices"
	"testing"
)

func TestWhatHasBeenUsedAddsUpAndIsForgottenAfterItsMonth(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna"))
	must(t, s.AddUser(ctx, "bert"))
	used := func(user, rule string, day int, bytes int64) Used { return Used{user, rule, day, bytes} }
	must(t, s.AddUsed(ctx, []Used{used("anna", "video", 20261130, 5), used("anna", "video", 20261129, 3), used("carl", "video", 20261130, 9)}))
	must(t, s.AddUsed(ctx, []Used{used("anna", "video", 20261130, 2), used("anna", "all", 20261130, 1), used("bert", "all", 20261130, 4)}))
	check := func(day int, want ...Used) {
		t.Helper()
		if got, err := reopen(t, s).UsedSince(ctx, day); err != nil || !slices.Equal(got, want) {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	check(20261130, used("anna", "all", 20261130, 1), used("anna", "video", 20261130, 7), used("bert", "all", 20261130, 4))
	check(20261101, used("anna", "all", 20261130, 1), used("anna", "video", 20261129, 3), used("anna", "video", 20261130, 7), used("bert", "all", 20261130, 4))
	must(t, s.RemoveUser(ctx, "bert"))
	must(t, s.AddUsed(ctx, []Used{used("anna", "all", 20261201, 1)}))
	check(0, used("anna", "all", 20261201, 1))
}
