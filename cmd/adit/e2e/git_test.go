//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// gitSite is a repository behind git's own HTTP server program.
type gitSite struct {
	dir  string // holds repo.git
	head string // the commit on its main branch
}

func newGitSite(dir string) (gitSite, error) {
	work := filepath.Join(dir, "work")
	if err := os.MkdirAll(work, 0o755); err != nil {
		return gitSite{}, err
	}
	if err := os.WriteFile(filepath.Join(work, "data"), []byte(randomText(1<<20)), 0o644); err != nil {
		return gitSite{}, err
	}
	var head []byte
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main", work},
		{"-C", work, "add", "data"},
		{"-C", work, "-c", "user.name=adit", "-c", "user.email=adit@adit.test", "commit", "--quiet", "-m", "Add data"},
		{"clone", "--quiet", "--bare", work, filepath.Join(dir, "repo.git")},
		{"-C", work, "rev-parse", "HEAD"},
	} {
		cmd := exec.Command("git", args...)
		cmd.Env = append(os.Environ(), "HOME="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return gitSite{}, fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, out)
		}
		head = out
	}
	return gitSite{dir: dir, head: string(head)}, nil
}

func (g gitSite) handler() http.Handler {
	return &cgi.Handler{
		Path:       "/usr/bin/git",
		Args:       []string{"http-backend"},
		Root:       "/git",
		Env:        []string{"GIT_PROJECT_ROOT=" + g.dir, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + g.dir},
		InheritEnv: []string{"PATH"},
	}
}

func TestGitClonesOverHTTPAndSSH(t *testing.T) {
	t.Parallel()
	ssh := "ssh '" + strings.Join(shared.site.ssh.options("nc.openbsd -X 5 -x "+door6+" %h %p"), "' '") + "'"
	for name, test := range map[string]struct{ config, url string }{
		"http over SOCKS5":  {"http.proxy=socks5h://" + door4, "http://" + targetName + "/git/repo.git"},
		"https over SOCKS5": {"http.proxy=socks5h://" + door6, "https://" + targetName6 + "/git/repo.git"},
		"http over HTTP":    {"http.proxy=http://" + door4, "http://[" + target6 + "]/git/repo.git"},
		"https over HTTP":   {"http.proxy=http://" + door4, "https://" + target4 + "/git/repo.git"},
		"ssh":               {"core.sshCommand=" + ssh, "ssh://root@" + targetName + shared.site.git.dir + "/repo.git"},
	} {
		t.Run(name, func(t *testing.T) {
			clone := filepath.Join(t.TempDir(), "clone")
			onClient(t, "", "git", "-c", test.config, "-c", "http.sslCAInfo="+shared.site.caFile, "clone", "--quiet", test.url, clone)
			if head := onClient(t, "", "git", "-C", clone, "rev-parse", "HEAD"); head != shared.site.git.head {
				t.Errorf("the clone is at %q, the repository at %q", head, shared.site.git.head)
			}
		})
	}
}
