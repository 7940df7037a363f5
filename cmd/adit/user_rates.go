package main

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/adit-net/adit/server/shape"
	"github.com/adit-net/adit/server/users"
)

// rateFlags is how many flags set rates.
const rateFlags = 5

// weightFlag is the one that sets no rate.
const weightFlag = "weight"

// noRate stands for no guarantee, and for no ceiling.
const noRate = "none"

// rateSetting is what one of these flags says.
type rateSetting struct {
	flag int
	bits *int64 // a second, or the weight; nil: as the server has it
}

// rateFlag names a flag, and what of a user's rates it sets.
type rateFlag struct {
	name, usage string
	of          func(r *users.Rates) **int64
}

func allRateFlags() [rateFlags]rateFlag {
	return [...]rateFlag{
		{"rate-up", "what the user may send for sure: a `rate`, none or default", func(r *users.Rates) **int64 { return &r.RateUp }},
		{"rate-down", "what the user may receive for sure: a `rate`, none or default", func(r *users.Rates) **int64 { return &r.RateDown }},
		{"ceiling-up", "what the user may send at most: a `rate`, none or default", func(r *users.Rates) **int64 { return &r.CeilingUp }},
		{"ceiling-down", "what the user may receive at most: a `rate`, none or default", func(r *users.Rates) **int64 { return &r.CeilingDown }},
		{weightFlag, "what part the user has of what nobody has for sure, beside others' 1: a `number`, or default", func(r *users.Rates) **int64 { return &r.Weight }},
	}
}

func addRates(flags *pflag.FlagSet, texts *[rateFlags]string) {
	for i, f := range allRateFlags() {
		flags.StringVar(&texts[i], f.name, "", f.usage)
	}
}

// parseRates reads those of the flags that are given.
func parseRates(flags *pflag.FlagSet, texts [rateFlags]string) (all []rateSetting, err error) {
	for i, f := range allRateFlags() {
		if !flags.Changed(f.name) {
			continue
		}
		set := rateSetting{flag: i}
		switch text := texts[i]; {
		case text == defaultGrace:
		case f.name == weightFlag:
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil || n < 1 || n > users.MaxWeight {
				return nil, hint(usageError{fmt.Errorf("--weight: %q is no number from 1 to %d", text, users.MaxWeight)}, "--weight 3, or --weight default")
			}
			set.bits = &n
		case text == noRate:
			set.bits = new(int64)
		default:
			r, err := shape.ParseRate(text)
			if err != nil {
				return nil, hint(usageError{fmt.Errorf("--%s: %q is no rate", f.name, text)}, "--%s '8 Mbit/s', --%s none or --%s default", f.name, f.name, f.name)
			}
			set.bits = new(int64(r))
		}
		all = append(all, set)
	}
	return all, nil
}

// change sets what the flags say.
func (u *userSettings) change(r *users.Rates) {
	flags := allRateFlags()
	for _, set := range u.rates {
		*flags[set.flag].of(r) = set.bits
	}
}

// ratesText says in a table what a user's own rates are.
func ratesText(r users.Rates) string {
	var all []string
	for _, f := range allRateFlags() {
		if bits := *f.of(&r); bits != nil {
			text := noRate
			switch {
			case f.name == weightFlag:
				text = strconv.FormatInt(*bits, 10)
			case *bits > 0:
				text = shape.Rate(*bits).String()
			}
			all = append(all, f.name+" "+text)
		}
	}
	return cmp.Or(strings.Join(all, ", "), defaultGrace)
}
