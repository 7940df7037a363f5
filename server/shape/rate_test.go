package shape

import (
	"strings"
	"testing"
)

func TestRatesAreReadAsPeopleWriteThem(t *testing.T) {
	for text, want := range map[string]Rate{
		"8 Mbit/s":      8 * Mbit,
		"8Mbit/s":       8 * Mbit,
		"1.5 Gbit/s":    1500 * Mbit,
		"64 kbit/s":     64 * Kbit,
		"64 KBIT/S":     64 * Kbit,
		"1 kbit/s":      Kbit,
		"2500 bit/s":    2500,
		"0.5 Mbit/s":    500 * Kbit,
		"1000 Gbit/s":   MaxRate,
		"  8  Mbit/s":   8 * Mbit,
		".125 Gbit/s":   125 * Mbit,
		"10.0 Mbit/s":   10 * Mbit,
		"100000 kbit/s": 100 * Mbit,
	} {
		if got, err := ParseRate(text); got != want || err != nil {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	for text, part := range map[string]string{
		"":              "units",
		"8":             "units",
		"8 MB/s":        "units",
		"8 Mbit":        "units",
		"Mbit/s":        "no number",
		"-8 Mbit/s":     "no number",
		"1e3 kbit/s":    "no number",
		"inf bit/s":     "no number",
		"1.2.3 Mbit/s":  "no number",
		"0 Mbit/s":      "not between",
		"999 bit/s":     "not between 1 kbit/s and 1000 Gbit/s",
		"1001 Gbit/s":   "not between",
		"8 8 Mbit/s":    "no number",
		"8 Mbit/s 8":    "units",
		"8 Mbit/s/user": "units",
	} {
		if got, err := ParseRate(text); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
}

func FuzzRate(f *testing.F) {
	for _, text := range []string{"8 Mbit/s", "1.5Gbit/s", "64 kbit/s", "2500 bit/s", "0", "NaN bit/s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRate(text)
		if err != nil {
			return
		}
		if r < MinRate || r > MaxRate {
			t.Errorf("%q is %d bit/s", text, r)
		}
		if again, err := ParseRate(r.String()); again != r || err != nil {
			t.Errorf("%q is %d bit/s, and written %q it is %d: %v", text, r, r, again, err)
		}
	})
}
