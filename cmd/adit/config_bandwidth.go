package main

import (
	"fmt"
	"strconv"

	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/server/shape"
)

// bandwidthConfig says what there is for all flows, and what each user gets of it. Empty
// is no limit, and no guarantee.
type bandwidthConfig struct {
	TotalUp         string `toml:"total_up"`
	TotalDown       string `toml:"total_down"`
	UserRateUp      string `toml:"user_rate_up"`
	UserRateDown    string `toml:"user_rate_down"`
	UserCeilingUp   string `toml:"user_ceiling_up"`
	UserCeilingDown string `toml:"user_ceiling_down"`
}

// read gives what the config says, and reports what is wrong with it.
func (c bandwidthConfig) read(report func(key, what, todo string)) (b server.Bandwidth) {
	rate := func(key, text string) shape.Rate {
		if text == "" {
			return 0
		}
		r, err := shape.ParseRate(text)
		if err != nil {
			report("bandwidth."+key, strconv.Quote(text)+" is no rate",
				fmt.Sprintf(`write a number and its unit, from "%v" to "%v": "8 Mbit/s"`, shape.MinRate, shape.MaxRate))
		}
		return r
	}
	b.Total = shape.Allotment{{Ceiling: rate("total_up", c.TotalUp)}, {Ceiling: rate("total_down", c.TotalDown)}}
	b.User = shape.Allotment{
		{Guaranteed: rate("user_rate_up", c.UserRateUp), Ceiling: rate("user_ceiling_up", c.UserCeilingUp)},
		{Guaranteed: rate("user_rate_down", c.UserRateDown), Ceiling: rate("user_ceiling_down", c.UserCeilingDown)},
	}
	for d, way := range []string{"up", "down"} {
		for _, above := range []struct {
			key string
			is  shape.Rate
		}{{"user_ceiling_" + way, b.User[d].Ceiling}, {"total_" + way, b.Total[d].Ceiling}} {
			if r := b.User[d].Guaranteed; above.is > 0 && r > above.is {
				report("bandwidth.user_rate_"+way, fmt.Sprintf("%v is more than %s, which is %v", r, above.key, above.is),
					"guarantee less, or allow more")
			}
		}
	}
	return b
}

func (c bandwidthConfig) validate(report func(key, what, todo string)) { c.read(report) }

// bandwidth is what the config says, for the server. The config is valid.
func (c bandwidthConfig) bandwidth() server.Bandwidth { return c.read(func(string, string, string) {}) }
