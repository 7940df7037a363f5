package main

import (
	"fmt"
	"strings"

	"rsc.io/qr"
)

// quiet is the light border, in modules, that ISO/IEC 18004 asks for so that scanners
// find a QR code. Four is the norm; phones are content with two.
const quiet = 2

// White on black, whatever the terminal's own colours are: not every scanner
// reads a negative.
const (
	whiteOnBlack = "\x1b[97;40m"
	plain        = "\x1b[0m"
)

// qrText draws text as a QR code of half blocks, two modules to a character, for
// a terminal. It gives "" if the code is wider than columns.
func qrText(text string, columns int) (string, error) {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return "", fmt.Errorf("draw QR code: %w", err)
	}
	if code.Size+2*quiet > columns {
		return "", nil
	}
	light := func(x, y int) bool { return y < code.Size+quiet && !code.Black(x, y) }
	var b strings.Builder
	for y := -quiet; y < code.Size+quiet; y += 2 {
		b.WriteString(whiteOnBlack)
		for x := -quiet; x < code.Size+quiet; x++ {
			switch upper, lower := light(x, y), light(x, y+1); {
			case upper && lower:
				b.WriteRune('█')
			case upper:
				b.WriteRune('▀')
			case lower:
				b.WriteRune('▄')
			default:
				b.WriteByte(' ')
			}
		}
		b.WriteString(plain + "\n")
	}
	return b.String(), nil
}
