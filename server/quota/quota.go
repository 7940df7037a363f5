// Package quota counts how many bytes users have used by a rule in a day and in a month,
// across restarts and in several processes at once.
package quota

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// keepEvery is how often what has been used is kept. A process that is killed forgets
// as much.
const keepEvery = 10 * time.Second

// Key is what is counted: what a user does by a rule.
type Key struct{ User, Rule string }

// Day is a date, as the number YYYYMMDD.
type Day int

// DayOf is the day of a time, where t says that it is.
func DayOf(t time.Time) Day {
	year, month, day := t.Date()
	return Day(year*10_000 + int(month)*100 + day)
}

// month is the first day of the month.
func (d Day) month() Day { return d - d%100 + 1 }

// Use is what has been used in a day.
type Use struct {
	Key
	Day   Day
	Bytes int64
}

// Keeper keeps what has been used. Its methods are not called concurrently by one
// [Book], but others may have the same keeper.
type Keeper interface {
	// Add adds to what is kept, all of it or nothing.
	Add(ctx context.Context, used []Use) error

	// Since gives what is kept of a day and later, once for each key and day.
	Since(ctx context.Context, d Day) ([]Use, error)
}

// Book knows what has been used. Its methods are safe for concurrent use.
type Book struct {
	keeper Keeper

	mu       sync.Mutex
	accounts map[Key]*Account
}

// NewBook gives a book, which is empty before Load.
func NewBook(k Keeper) *Book { return &Book{keeper: k, accounts: make(map[Key]*Account)} }

// Account is what one user has used by one rule. Its methods are safe for concurrent
// use.
type Account struct {
	key Key

	mu      sync.Mutex
	day     Day   // that today is about
	today   int64 // bytes
	month   int64 // bytes of the month, today's among them
	pending []Use // not kept yet: one for each day
}

// Account gives an account, which there is from now on.
func (b *Book) Account(k Key) *Account {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[k]
	if a == nil {
		a = &Account{key: k}
		b.accounts[k] = a
	}
	return a
}

// Add counts bytes.
func (a *Account) Add(n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.turn(DayOf(time.Now()))
	a.today += n
	a.month += n
	if last := len(a.pending) - 1; last >= 0 && a.pending[last].Day == a.day {
		a.pending[last].Bytes += n
		return
	}
	a.pending = append(a.pending, Use{a.key, a.day, n})
}

// Used tells how many bytes have been used today and this month.
func (a *Account) Used() (today, month int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.turn(DayOf(time.Now()))
	return a.today, a.month
}

// Over tells whether a limit on a day or on a month is used up, and when there is more
// again. 0 is no limit.
func (a *Account) Over(perDay, perMonth int64) (until time.Time, over bool) {
	today, month := a.Used()
	year, m, d := time.Now().Date()
	switch {
	case perMonth > 0 && month >= perMonth:
		return time.Date(year, m+1, 1, 0, 0, 0, 0, time.Local), true
	case perDay > 0 && today >= perDay:
		return time.Date(year, m, d+1, 0, 0, 0, 0, time.Local), true
	}
	return time.Time{}, false
}

// turn begins another day. A clock that goes back begins none.
func (a *Account) turn(d Day) {
	if d <= a.day {
		return
	}
	if d.month() != a.day.month() {
		a.month = 0
	}
	a.day, a.today = d, 0
}

// Load makes known what has been kept.
func (b *Book) Load(ctx context.Context) error {
	d := DayOf(time.Now())
	kept, err := b.keeper.Since(ctx, d.month())
	if err != nil {
		return fmt.Errorf("load what has been used: %w", err)
	}
	today, month := make(map[Key]int64), make(map[Key]int64)
	for _, u := range kept {
		if u.Day.month() != d.month() {
			continue // a clock was ahead
		}
		month[u.Key] += u.Bytes
		if u.Day == d {
			today[u.Key] += u.Bytes
		}
		b.Account(u.Key)
	}
	for _, a := range b.all() {
		a.know(d, today[a.key], month[a.key])
	}
	return nil
}

// know takes over what is kept of a day and its month. What is not kept yet comes on top.
func (a *Account) know(d Day, today, month int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d < a.day {
		return // it was read before midnight
	}
	a.turn(d)
	a.today, a.month = today, month
	for _, u := range a.pending {
		if u.Day == a.day {
			a.today += u.Bytes
		}
		if u.Day.month() == a.day.month() {
			a.month += u.Bytes
		}
	}
}

func (b *Book) all() []*Account {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]*Account, 0, len(b.accounts))
	for _, a := range b.accounts {
		all = append(all, a)
	}
	return all
}

// Keep keeps what has been used since the last time. If that fails, the next time does
// it.
func (b *Book) Keep(ctx context.Context) error {
	var used []Use
	all := b.all()
	for _, a := range all {
		a.mu.Lock()
		used = append(used, a.pending...)
		a.mu.Unlock()
	}
	if len(used) == 0 {
		return nil
	}
	if err := b.keeper.Add(ctx, used); err != nil {
		return fmt.Errorf("keep what has been used: %w", err)
	}
	for _, u := range used {
		b.Account(u.Key).kept(u)
	}
	return nil
}

// kept takes out of what is pending what is not any more.
func (a *Account) kept(u Use) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.pending {
		if a.pending[i].Day == u.Day {
			a.pending[i].Bytes -= u.Bytes
		}
	}
	for len(a.pending) > 0 && a.pending[0].Bytes == 0 {
		a.pending = a.pending[1:]
	}
}

// Serve keeps what is used every ten seconds, and learns what other processes have
// kept, until ctx ends. Then it keeps the rest, and tells whether that failed.
func (b *Book) Serve(ctx context.Context, failed func(error)) error {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return b.Keep(context.WithoutCancel(ctx))
		case <-tick.C:
		}
		err := b.Keep(ctx)
		if err == nil {
			err = b.Load(ctx)
		}
		if err != nil && ctx.Err() == nil {
			failed(err)
		}
	}
}
