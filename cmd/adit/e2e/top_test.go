//go:build linux

package e2e

import (
	"context"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// terminal is a tmux with one window.
type terminal struct {
	*desk
	socket string
}

func (d *desk) terminal(t *testing.T, width, height int) *terminal {
	t.Helper()
	term := &terminal{d, filepath.Join(t.TempDir(), "tmux")}
	// The shell goes on when a program has ended, as somebody's would.
	term.tmux(t, "-f", "/dev/null", "new-session", "-d", "-x", strconv.Itoa(width), "-y", strconv.Itoa(height), "env", "PS1=$ ", "sh")
	t.Cleanup(func() {
		_, _ = d.ns.output(command(context.Background(), d.home, "tmux", "-S", term.socket, "kill-server")) // it ends with the namespace
	})
	term.tmux(t, "set-option", "-g", "status", "off")
	term.shows(t, `^\$$`) // what is typed before stands in front of it, too
	return term
}

func (term *terminal) tmux(t *testing.T, args ...string) string {
	t.Helper()
	return term.output(t, "tmux", append([]string{"-S", term.socket}, args...)...)
}

// types types text, or presses a key that tmux has a name for.
func (term *terminal) types(t *testing.T, text string) { term.tmux(t, "send-keys", "-l", text) }
func (term *terminal) press(t *testing.T, key string)  { term.tmux(t, "send-keys", key) }

func (term *terminal) screen(t *testing.T) string {
	t.Helper()
	return term.tmux(t, "capture-pane", "-p")
}

// shows waits until the screen shows all of some patterns.
func (term *terminal) shows(t *testing.T, patterns ...string) {
	t.Helper()
	var screen string
	defer func() {
		if t.Failed() {
			t.Logf("the screen:\n%s", screen)
		}
	}()
	for _, p := range patterns {
		fits := regexp.MustCompile("(?m)" + p)
		until(t, "that the screen shows "+p, func() bool {
			screen = term.screen(t)
			return fits.MatchString(screen)
		})
	}
	t.Logf("%s", screen)
}

// TestTopAndAuditInARealTerminal looks at a server as somebody at a terminal does.
func TestTopAndAuditInARealTerminal(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "topdesk")
	d.download(t)
	d.download(t)
	d.refused(t, "169.254.169.254")
	// A name that terminals which know C1 would show in red, and others backwards.
	d.output(t, "sh", "-c", `printf '\005\001\000\005\001\000\003\016a\302\23331m\342\200\256b.org\000\120' | ncat --no-shutdown -w 5 `+
		strings.Replace(deskDoor, ":", " ", 1)+` | od -c`)
	term := d.terminal(t, 80, 24)
	term.types(t, shared.binary+" top --dir "+d.server)
	term.press(t, "Enter")
	term.shows(t,
		`^\d\d:\d\d:\d\d  sessions 1, flows 2   adit server .*, up \d+`,
		`^down [1-9].*/s, up .*/s   refused \d, failed \d, logins denied 0$`,
		`^\[flows\] sessions refusals   2 rows, by DOWN/S$`,
		`^USER +TARGET +DOWN/S\* +UP/S +DOWN +FOR`,
		`^alice  127\.0\.0\.1:8000 +[1-9]\S* +- +[1-9]\S*[KM] +\d+`,
		`^tab view   ←→ sort   r reverse   / filter   ↑↓ scroll   space pause   q quit$`)
	if lines := strings.Split(strings.TrimSuffix(term.screen(t), "\n"), "\n"); len(lines) != 24 || !strings.HasPrefix(lines[23], "tab view") {
		t.Errorf("the screen has %d lines", len(lines))
	}
	term.press(t, "Tab")
	term.shows(t, `\[sessions\]`, `^alice  laptop +[1-9]\S* +\S+ +2 +\S+ +TLS 1\.3`)
	term.press(t, "Tab")
	term.shows(t, `\[refusals\]`, `alice +connect +169\.254\.169\.254:80 +1 +the target is a `)
	term.press(t, "Tab")
	term.press(t, "Right")
	term.press(t, "r")
	term.shows(t, `by UP/S reversed$`)
	term.types(t, "/nothing")
	term.shows(t, ` 0 rows.*with /nothing_$`, `^type what rows must have`)
	term.press(t, "Escape")
	term.shows(t, ` 2 rows`)

	// The terminal becomes another one.
	term.tmux(t, "resize-window", "-x", "132", "-y", "40")
	term.shows(t, `^USER +TARGET .* COMMAND  DEVICE`)
	term.tmux(t, "resize-window", "-x", "50", "-y", "10")
	term.shows(t, `^tab view .*…\n*\z`)
	term.tmux(t, "resize-window", "-x", "80", "-y", "24")
	term.shows(t, `^tab view .* q quit\n*\z`)

	// It leaves the terminal as it was: the line that started it is there, and the shell echoes.
	term.press(t, "q")
	term.shows(t, `^\$ .* top --dir `, `^\$$`)
	term.types(t, "echo ended $?")
	term.press(t, "Enter")
	term.shows(t, `^\$ echo ended \$\?$`, `^ended 0$`)
	term.types(t, "clear; "+shared.binary+" top --dir "+d.server)
	term.press(t, "Enter")
	term.shows(t, `\[flows\]`)
	term.press(t, "C-c")
	term.shows(t, `^\$$`)
	term.types(t, "clear; echo ended $?; stty -a")
	term.press(t, "Enter")
	term.shows(t, `^ended 0$`, ` echo `, ` icanon `)

	// What went on is on record.
	term.types(t, "clear; "+shared.binary+" audit --dir "+d.server+" | cut -c 1-200")
	term.press(t, "Enter")
	term.tmux(t, "resize-window", "-x", "200", "-y", "24")
	term.shows(t, `^TIME +USER +SOURCE +COMMAND +TO `, `alice +127\.0\.0\.1 +connect +169\.254\.169\.254:80 .* not allowed`,
		`alice +127\.0\.0\.1 +connect +a\\u009b31m\\u202eb\.org:80 `)
}
