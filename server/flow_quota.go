package server

import (
	"context"
	"fmt"
	"time"

	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/server/quota"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel/socks"
)

// ration is what a rule lets a flow's user use in a day or a month.
type ration struct {
	rule    *policy.Rule
	account *quota.Account
	counted int64 // bytes of the flow that are on an account
}

// settle puts what the flow has used on the account of its rule, and tells why there may be
// no more. f.mu is held.
func (f *flow) settle() error {
	r := f.ration
	if r == nil {
		return nil
	}
	if n := f.up.Load() + f.down.Load(); n > r.counted {
		r.account.Add(n - r.counted)
		r.counted = n
	}
	until, over := r.account.Over(r.rule.Limit.QuotaPerDay, r.rule.Limit.QuotaPerMonth)
	if !over {
		return nil
	}
	return &socks.Error{Code: socks.NotAllowed, Err: fmt.Errorf("the quota of rule %q is used up until %s", r.rule.Name, until.Format(time.DateTime))}
}

// rationBy has what the flow uses from now on count for a rule, and tells why there may be
// none. f.mu is held.
func (f *flow) rationBy(rule *policy.Rule) error {
	if f.ration != nil && f.ration.rule == rule {
		return f.settle()
	}
	_ = f.settle() // the old rule does not count any more
	f.ration = nil
	if rule == nil || rule.Limit.QuotaPerDay == 0 && rule.Limit.QuotaPerMonth == 0 {
		return nil
	}
	account := f.caller.server.quotas.Account(quota.Key{User: f.caller.user, Rule: rule.Name})
	f.ration = &ration{rule: rule, account: account, counted: f.up.Load() + f.down.Load()}
	return f.settle()
}

// charge cuts the flow if its quota is used up.
func (f *flow) charge() {
	f.mu.Lock()
	reason := f.settle()
	f.mu.Unlock()
	if reason != nil {
		f.cut(reason)
	}
}

// chargeFlows cuts the flows whose quotas are used up. What has passed since the last time is
// more than they had.
func (s *Server) chargeFlows() {
	for _, c := range s.callers() {
		for _, f := range c.all() {
			f.charge()
		}
	}
}

// usage keeps in the store what has been used.
type usage struct{ store *users.Store }

func (u usage) Add(ctx context.Context, used []quota.Use) error {
	all := make([]users.Used, 0, len(used))
	for _, one := range used {
		all = append(all, users.Used{User: one.User, Rule: one.Rule, Day: int(one.Day), Bytes: one.Bytes})
	}
	return u.store.AddUsed(ctx, all)
}

func (u usage) Since(ctx context.Context, d quota.Day) ([]quota.Use, error) {
	all, err := u.store.UsedSince(ctx, int(d))
	used := make([]quota.Use, 0, len(all))
	for _, one := range all {
		used = append(used, quota.Use{Key: quota.Key{User: one.User, Rule: one.Rule}, Day: quota.Day(one.Day), Bytes: one.Bytes})
	}
	return used, err
}

// serveQuotas keeps account until ctx ends.
func (s *Server) serveQuotas(ctx context.Context) {
	failed := func(err error) { s.cfg.Log.Error("quotas", "error", err) }
	if err := s.quotas.Load(ctx); err != nil && ctx.Err() == nil {
		failed(err)
	}
	if err := s.quotas.Serve(ctx, failed); err != nil {
		failed(err)
	}
}

// keepQuotas keeps what has been used up to now.
func (s *Server) keepQuotas(ctx context.Context) {
	if err := s.quotas.Keep(ctx); err != nil {
		s.cfg.Log.Error("quotas", "error", err)
	}
}
