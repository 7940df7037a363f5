package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-net/adit/server/users"
)

const userSetHelp = `Set what holds for one user. A running server follows within two seconds.

--grace says how long the user's open connections wait for a device that has lost
its way to the server, from 0s, at which they end at once, to 24h. With default
they wait as long as grace in server.toml says.

--principal says as whom Kerberos knows the user, such as alice@EXAMPLE.ORG, for doors
that take Kerberos tickets; --remove-principal that it does not any more. Both may
be repeated.

--rate-up and --rate-down say what bandwidth the user has for sure, --ceiling-up and
--ceiling-down what at most: "8 Mbit/s", none, or default, which is what [bandwidth] in
server.toml says. Up is from apps to targets. --weight says what part the user has of
what nobody has for sure: with 3 it is three times that of each other user who wants some.`

func newUserSet() *cobra.Command {
	var (
		set  userSettings
		text string
	)
	var rates [rateFlags]string
	c := newUserChange("set NAME [--grace DURATION] [--principal PRINCIPAL] [--rate-up RATE]", "Set what holds for one user", set.apply)
	c.Long = userSetHelp
	c.Example = "  adit user set alice --grace 1h\n  adit user set alice --grace default\n  adit user set alice --principal alice@EXAMPLE.ORG\n  adit user set alice --rate-down '2 Mbit/s' --ceiling-down '8 Mbit/s'"
	c.PreRunE = func(c *cobra.Command, _ []string) (err error) {
		if set.rates, err = parseRates(c.Flags(), rates); err != nil {
			return err
		}
		if len(set.add)+len(set.remove)+len(set.rates) > 0 && !c.Flags().Changed("grace") {
			return nil
		}
		set.hasGrace = true
		set.grace, err = parseGrace(text)
		return err
	}
	c.Flags().StringVar(&text, "grace", "", "how long open connections wait for a device: a `duration`, or default")
	addRates(c.Flags(), &rates)
	c.Flags().StringSliceVar(&set.add, "principal", nil, "the user's `name` in Kerberos; may be repeated")
	c.Flags().StringSliceVar(&set.remove, "remove-principal", nil, "a `name` in Kerberos that is the user's no more; may be repeated")
	return c
}

// userSettings is what adit user set changes.
type userSettings struct {
	hasGrace    bool
	grace       *time.Duration
	add, remove []string // principals
	rates       []rateSetting
}

func (u *userSettings) apply(ctx context.Context, s *users.Store, name string) error {
	if u.hasGrace {
		if err := s.SetUserGrace(ctx, name, u.grace); err != nil {
			return err
		}
	}
	if len(u.rates) > 0 {
		if err := s.ChangeRates(ctx, name, u.change); err != nil {
			return err
		}
	}
	for _, p := range u.remove {
		if err := s.RemovePrincipal(ctx, name, p); err != nil {
			return err
		}
	}
	for _, p := range u.add {
		if err := s.AddPrincipal(ctx, name, p); err != nil {
			return err
		}
	}
	return nil
}

// defaultGrace stands for the grace that server.toml gives to everybody.
const defaultGrace = "default"

// parseGrace reads the value of --grace. nil is the default.
func parseGrace(text string) (*time.Duration, error) {
	if text == defaultGrace {
		return nil, nil
	}
	const todo = "--grace 30m, --grace 0s or --grace default"
	if text == "" {
		return nil, hint(usageError{errors.New("--grace is missing")}, todo)
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return nil, hint(usageError{fmt.Errorf("--grace: %q is not a duration", text)}, todo)
	}
	if d < 0 || d > users.MaxGrace {
		return nil, hint(usageError{fmt.Errorf("--grace: %s is not between 0s and %s", briefly(d), briefly(users.MaxGrace))}, todo)
	}
	return &d, nil
}
