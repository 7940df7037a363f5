package main

import "testing"

func TestAuditConfigSaysWhatIsWrong(t *testing.T) {
	const days, size = "write a number from 1 to 36500, or 0 to keep all", "write a number from 64 to 67108864, or 0 for no limit"
	checkSection(t, "audit", map[string]string{
		`mode = "lenient"`:        "",
		`mode = "strict"`:         "",
		`mode = "off"`:            "",
		`mode = "Strict"`:         `audit.mode: unknown mode "Strict" | known are: lenient, strict, off`,
		`mode = ""`:               `audit.mode: unknown mode "" | known are: lenient, strict, off`,
		`keep_days = 0`:           "",
		`keep_days = 36500`:       "",
		`keep_days = -1`:          "audit.keep_days: -1 is out of range | " + days,
		`keep_days = 36501`:       "audit.keep_days: 36501 is out of range | " + days,
		`max_size_mib = 0`:        "",
		`max_size_mib = 64`:       "",
		`max_size_mib = 67108864`: "",
		`max_size_mib = 63`:       "audit.max_size_mib: 63 is out of range | " + size,
		`max_size_mib = 67108865`: "audit.max_size_mib: 67108865 is out of range | " + size,
	})
}
