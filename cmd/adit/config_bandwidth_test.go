package main

import (
	"testing"

	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/server/shape"
)

func TestBandwidthConfigSaysWhatIsWrong(t *testing.T) {
	const todo = ` is no rate | write a number and its unit, from "1 kbit/s" to "1000 Gbit/s": "8 Mbit/s"`
	checkSection(t, "bandwidth", map[string]string{
		`total_up = ""`:                  "",
		`total_up = "1 kbit/s"`:          "",
		`total_down = "1.5 Gbit/s"`:      "",
		`total_up = "8"`:                 `bandwidth.total_up: "8"` + todo,
		`total_down = "8 MB/s"`:          `bandwidth.total_down: "8 MB/s"` + todo,
		`user_rate_up = "-1 Mbit/s"`:     `bandwidth.user_rate_up: "-1 Mbit/s"` + todo,
		`user_rate_down = "1 bit/s"`:     `bandwidth.user_rate_down: "1 bit/s"` + todo,
		`user_ceiling_up = "0"`:          `bandwidth.user_ceiling_up: "0"` + todo,
		`user_ceiling_down = "1 Pbit/s"`: `bandwidth.user_ceiling_down: "1 Pbit/s"` + todo,
		"user_rate_up = \"9 Mbit/s\"\nuser_ceiling_up = \"9 Mbit/s\"": "",
		"user_rate_up = \"9 Mbit/s\"\nuser_ceiling_up = \"8 Mbit/s\"": `bandwidth.user_rate_up: 9 Mbit/s is more than user_ceiling_up, which is 8 Mbit/s | guarantee less, or allow more`,
		"user_rate_down = \"9 Mbit/s\"\ntotal_down = \"8 Mbit/s\"":    `bandwidth.user_rate_down: 9 Mbit/s is more than total_down, which is 8 Mbit/s | guarantee less, or allow more`,
		"user_rate_down = \"9 Mbit/s\"\ntotal_up = \"8 Mbit/s\"":      "",
	})
}

func TestServerAllotsWhatTheConfigSays(t *testing.T) {
	c := bandwidthConfig{
		TotalUp: "50 Mbit/s", TotalDown: "100 Mbit/s",
		UserRateUp: "1 Mbit/s", UserRateDown: "2 Mbit/s", UserCeilingUp: "10 Mbit/s", UserCeilingDown: "20 Mbit/s",
	}
	want := server.Bandwidth{
		Total: shape.Allotment{shape.Up: {Ceiling: 50 * shape.Mbit}, shape.Down: {Ceiling: 100 * shape.Mbit}},
		User: shape.Allotment{
			shape.Up:   {Guaranteed: shape.Mbit, Ceiling: 10 * shape.Mbit},
			shape.Down: {Guaranteed: 2 * shape.Mbit, Ceiling: 20 * shape.Mbit},
		},
	}
	if got := c.bandwidth(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := (bandwidthConfig{}).bandwidth(); got != (server.Bandwidth{}) {
		t.Errorf("by default %+v", got)
	}
}
