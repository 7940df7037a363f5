//go:build linux

package e2e

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const readerNS namespace = "reader"

// TestEveryCommandInTheREADMEWorks is somebody with nothing but a clone of the
// repository who types what the README says. The conventions:
//
//   - Code blocks marked sh are run, from the first to the last, in one bash that
//     has job control and ends at the first command that fails. Blocks marked
//     otherwise (console, text, go, …) are only to be looked at.
//   - A command that keeps running ends with " &". The next one comes when it has
//     printed a line that begins with "ready". %1 is the first of them.
//   - `adit demo`, with nothing behind it, gets its Ctrl-C when it asks for it.
//   - Of make only the target build is run. The others must exist: test and check
//     are how this test comes to be run, cross takes minutes and has its own step.
//   - There is no network but loopback. A web server listens on port 8000.
func TestEveryCommandInTheREADMEWorks(t *testing.T) {
	t.Parallel()
	startReaderNetwork(t)
	home, clone := t.TempDir(), filepath.Join(t.TempDir(), "adit")
	copyRepository(t, clone)
	readme, err := os.ReadFile(filepath.Join(clone, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	commands := shellBlocks(string(readme))
	if commands == "" {
		t.Fatal("the README has no block of commands")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	script := filepath.Join(home, "readme.sh")
	if err := os.WriteFile(script, []byte(readerShell+withWaits(commands)), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := command(ctx, home, "bash", script)
	cmd.Dir = clone
	cmd.Env = append(cmd.Env,
		"PATH="+filepath.Dir(shared.binary)+":"+os.Getenv("PATH"),
		"GOCACHE="+os.Getenv("GOCACHE"), "GOMODCACHE="+os.Getenv("GOMODCACHE"), "GOPROXY=off")
	out, err := readerNS.output(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(out)
}

// readerShell is what the reader's shell does before the README's commands.
const readerShell = `
set -m -e -o pipefail
exec 2>&1
server() { adit status --json --dir "$HOME/.config/adit/server" 2>/dev/null | sed -n 's/.*"pid": \([0-9]*\),/\1/p'; }
trap '{ set +v; } 2>/dev/null; kill $(server) $(jobs -p) 2>/dev/null || true; wait' EXIT
make() { [ "$1" = build ] || set -- -n "$@"; command make "$@"; }

# started PATTERN: wait until the last background job has printed such a line
started() {
	for i in $(seq 1200); do
		! grep -q "$1" "$HOME/job.log" || return 0
		kill -0 $! 2>/dev/null || break
		sleep 0.1
	done
	cat "$HOME/job.log"
	echo "it did not get as far as a line with $1"
	return 1
}
set -v
`

var (
	staying     = regexp.MustCompile(`(?m) &$`)
	interactive = regexp.MustCompile(`(?m)^(.*adit demo)$`)
)

// withWaits makes the shell wait as a reader would. After an interrupt `go run`
// fails, however well the program ended.
func withWaits(commands string) string {
	commands = staying.ReplaceAllString(commands, ` >"$$HOME/job.log" 2>&1 & started ^ready`)
	return interactive.ReplaceAllString(commands, `$1 >"$$HOME/job.log" 2>&1 & started Ctrl-C; kill -INT %%; wait %% || true`)
}

// shellBlocks returns the lines of the blocks that are marked sh.
func shellBlocks(markdown string) string {
	var text strings.Builder
	fenced, shell := false, false
	for line := range strings.Lines(markdown) {
		if mark, ok := strings.CutPrefix(line, "```"); ok {
			fenced = !fenced
			shell = fenced && strings.TrimSpace(mark) == "sh"
			continue
		}
		if shell {
			text.WriteString(line)
		}
	}
	return text.String()
}

// startReaderNetwork makes a namespace with loopback alone, and the web server
// in it that the README speaks of.
func startReaderNetwork(t *testing.T) {
	t.Helper()
	if err := ip("netns add reader", "-n reader link set lo up"); err != nil {
		t.Fatal(err)
	}
	ln, err := readerNS.listen(":8000")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: shared.site.handler(), ReadHeaderTimeout: time.Minute}
	ended := make(chan struct{})
	go func(ln net.Listener) { defer close(ended); _ = web.Serve(ln) }(ln)
	t.Cleanup(func() { web.Close(); <-ended })
}

// copyRepository copies what a clone would have: what stands at the top level,
// but not what git and make put there.
func copyRepository(t *testing.T, clone string) {
	t.Helper()
	const root = "../../.."
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		from, to := filepath.Join(root, e.Name()), filepath.Join(clone, e.Name())
		switch {
		case e.Name() == ".git" || e.Name() == "bin" || e.Name() == "adit":
			continue
		case e.IsDir():
			err = os.CopyFS(to, os.DirFS(from))
		default:
			err = copyFile(from, to)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}
