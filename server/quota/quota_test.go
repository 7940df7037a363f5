package quota

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf is a keeper in memory.
type shelf struct {
	mu   sync.Mutex
	kept map[Use]int64 // by key and day; Bytes is 0
	err  error
}

func newShelf() *shelf { return &shelf{kept: make(map[Use]int64)} }

func (s *shelf) Add(_ context.Context, used []Use) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	for _, u := range used {
		s.kept[Use{Key: u.Key, Day: u.Day}] += u.Bytes
	}
	return nil
}

func (s *shelf) Since(_ context.Context, d Day) (all []Use, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for u, n := range s.kept {
		if u.Day >= d {
			u.Bytes = n
			all = append(all, u)
		}
	}
	return all, s.err
}

var key = Key{User: "anna", Rule: "video"}

func want(t *testing.T, what string, a *Account, today, month int64) {
	t.Helper()
	if gotToday, gotMonth := a.Used(); gotToday != today || gotMonth != month {
		t.Errorf("%s: %d bytes today and %d this month, want %d and %d", what, gotToday, gotMonth, today, month)
	}
}

// next is how long it is until a day begins, from now.
func next(years, months, days int) time.Duration {
	y, m, d := time.Now().Date()
	if months > 0 {
		d = 1
	}
	return time.Until(time.Date(y+years, m+time.Month(months), d+days, 0, 0, 0, 0, time.Local))
}

func TestDaysAndMonthsBeginAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := NewBook(newShelf()).Account(key)
		a.Add(100)
		want(t, "at first", a, 100, 100)
		time.Sleep(next(0, 0, 1))
		want(t, "the next day", a, 0, 100)
		a.Add(5)
		want(t, "the next day", a, 5, 105)
		time.Sleep(next(0, 1, 0))
		want(t, "the next month", a, 0, 0)
		a.Add(1)
		time.Sleep(next(1, 0, 0))
		want(t, "on the same day of the next year", a, 0, 0)
	})
}

func TestLimitsHoldUntilTheirTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := NewBook(newShelf()).Account(key)
		a.Add(100)
		for _, test := range []struct {
			day, month int64
			over       bool
			until      time.Duration
		}{
			{0, 0, false, 0},
			{101, 101, false, 0},
			{100, 0, true, next(0, 0, 1)},
			{0, 100, true, next(0, 1, 0)},
			{1, 1, true, next(0, 1, 0)},
		} {
			until, over := a.Over(test.day, test.month)
			if over != test.over || over && time.Until(until) != test.until {
				t.Errorf("%+v: %v, until %v", test, over, until)
			}
		}
		until, _ := a.Over(100, 0)
		time.Sleep(time.Until(until))
		if _, over := a.Over(100, 0); over {
			t.Error("the limit of a day holds for the next one")
		}
	})
}

func TestWhatWasUsedOutlivesItsProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		before, ctx := NewBook(s), t.Context()
		before.Account(key).Add(100)
		if err := before.Keep(ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(next(0, 0, 1))
		before.Account(key).Add(10)
		// Both run for a while.
		after := NewBook(s)
		if err := after.Load(ctx); err != nil {
			t.Fatal(err)
		}
		after.Account(key).Add(1)
		want(t, "before the rest is kept", after.Account(key), 1, 101)
		for _, b := range []*Book{before, after, before, after} {
			if err := errors.Join(b.Keep(ctx), b.Load(ctx)); err != nil {
				t.Fatal(err)
			}
		}
		want(t, "in the one", before.Account(key), 11, 111)
		want(t, "in the other", after.Account(key), 11, 111)
	})
}

func TestWhatIsOfALaterMonthDoesNotCountYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		b, now := NewBook(s), time.Now()
		for day, n := range map[Day]int64{DayOf(now): 1, DayOf(now.AddDate(0, 1, 0)): 10, DayOf(now.AddDate(1, 0, 0)): 100} {
			s.kept[Use{Key: key, Day: day}] = n
		}
		if err := b.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		want(t, "now", b.Account(key), 1, 1)
	})
}

func TestServeKeepsAllAndCatchesUpAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		b := NewBook(s)
		ctx, stop := context.WithCancel(t.Context())
		failures, ended := 0, make(chan error, 1)
		go func() { ended <- b.Serve(ctx, func(error) { failures++ }) }()
		today := Use{Key: key, Day: DayOf(time.Now())}
		kept := func() int64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.kept[today]
		}
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				for range 1000 {
					b.Account(key).Add(1)
					time.Sleep(3 * time.Millisecond)
				}
			})
		}
		all.Wait()
		time.Sleep(keepEvery)
		synctest.Wait()
		if n := kept(); n != 10_000 {
			t.Errorf("%d bytes are kept", n)
		}
		s.mu.Lock()
		s.err = errors.New("the disk is full")
		s.mu.Unlock()
		b.Account(key).Add(5)
		time.Sleep(2 * keepEvery)
		synctest.Wait()
		if failures != 2 || kept() != 10_000 {
			t.Errorf("%d failures, %d bytes are kept", failures, kept())
		}
		want(t, "meanwhile", b.Account(key), 10_005, 10_005)
		s.mu.Lock()
		s.err = nil
		s.mu.Unlock()
		b.Account(key).Add(2)
		stop()
		if err := <-ended; err != nil || kept() != 10_007 {
			t.Errorf("at the end %d bytes are kept, %v", kept(), err)
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	a := NewBook(newShelf()).Account(key)
	for b.Loop() {
		a.Add(64 << 10)
	}
}
