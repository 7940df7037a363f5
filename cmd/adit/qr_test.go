package main

import (
	"strings"
	"testing"
	"unicode/utf8"

	"rsc.io/qr"
)

// TestQRCodeOnATerminalHasTheRightModules reads the half blocks back, with two
// modules of light border on every side.
func TestQRCodeOnATerminalHasTheRightModules(t *testing.T) {
	const text = "adit://vpn.example.org:443/?pin=x&token=y"
	drawn, err := qrText(text, 80)
	if err != nil {
		t.Fatal(err)
	}
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(strings.TrimSuffix(drawn, "\n"), "\n")
	if want := (code.Size + 2*quiet + 1) / 2; len(rows) != want {
		t.Fatalf("%d rows, want %d", len(rows), want)
	}
	for i, row := range rows {
		row = strings.TrimSuffix(strings.TrimPrefix(row, whiteOnBlack), plain)
		if n := utf8.RuneCountInString(row); n != code.Size+2*quiet {
			t.Fatalf("row %d has %d characters, want %d", i, n, code.Size+2*quiet)
		}
		for x, r := range []rune(row) {
			for half, light := range []bool{r == '█' || r == '▀', r == '█' || r == '▄'} {
				y := 2*i + half
				inside := y < code.Size+2*quiet
				if want := inside && !code.Black(x-quiet, y-quiet); light != want {
					t.Fatalf("module %d,%d is light: %v, want %v", x, y, light, want)
				}
			}
		}
	}
}

func TestQRCodeIsLeftOutWhereItDoesNotFit(t *testing.T) {
	drawn, err := qrText("adit://vpn.example.org:443/", 20)
	if err != nil || drawn != "" {
		t.Errorf("drawn %q, %v on 20 columns, want nothing", drawn, err)
	}
}
