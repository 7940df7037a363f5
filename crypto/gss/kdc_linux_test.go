package gss

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The realms of a kdc. Users of the second may use services of the first.
const (
	home     = "ADIT.TEST"
	neighbor = "NEIGHBOR.TEST"
)

// kdc is MIT's, with two realms of its own and a cache of tickets for one user.
// Nothing of it is outside of its directory.
type kdc struct {
	t   testing.TB
	dir string
	env []string
}

// startKDC serves for as long as the test lasts.
func startKDC(t testing.TB) *kdc {
	t.Helper()
	k := &kdc{t: t, dir: t.TempDir()}
	k.env = append(os.Environ(),
		"KRB5_CONFIG="+k.path("krb5.conf"), "KRB5_KDC_PROFILE="+k.path("kdc.conf"), "KRB5CCNAME=FILE:"+k.path("tickets"), "KRB5_CLIENT_KTNAME="+k.path("none"))
	k.configure()
	for _, realm := range []string{home, neighbor} {
		k.run("", "/usr/sbin/kdb5_util", "create", "-s", "-r", realm, "-P", "of the database")
	}
	k.admin(home, "addprinc -pw secret alice", "addprinc -pw of-both krbtgt/"+home+"@"+neighbor)
	k.admin(neighbor, "addprinc -pw secret bob", "addprinc -pw of-both krbtgt/"+home+"@"+neighbor)
	k.serve()
	return k
}

func (k *kdc) path(name string) string { return filepath.Join(k.dir, name) }

func (k *kdc) configure() {
	k.t.Helper()
	// On a loopback address of its own nobody else takes the port before the daemon does.
	own := netip.AddrFrom4([4]byte{127, byte(1 + rand.IntN(254)), byte(rand.IntN(256)), byte(1 + rand.IntN(254))})
	free, err := net.Listen("tcp", netip.AddrPortFrom(own, 0).String())
	if err != nil {
		k.t.Fatal(err)
	}
	at := free.Addr()
	free.Close()
	client, server := "", ""
	for _, realm := range []string{home, neighbor} {
		client += fmt.Sprintf("%s = {\n kdc = %s\n}\n", realm, at)
		server += fmt.Sprintf("%s = {\n database_name = %s\n key_stash_file = %s\n}\n", realm, k.path(realm), k.path(realm+".stash"))
	}
	k.write("krb5.conf", fmt.Sprintf(`[libdefaults]
default_realm = %s
dns_lookup_realm = false
dns_lookup_kdc = false
dns_canonicalize_hostname = false
rdns = false
udp_preference_limit = 1
[realms]
%s[domain_realm]
localhost = %[1]s
`, home, client))
	k.write("kdc.conf", fmt.Sprintf(`[kdcdefaults]
kdc_listen = ""
kdc_tcp_listen = %s
[realms]
%s[logging]
kdc = STDERR
`, at, server))
}

func (k *kdc) write(name, content string) {
	k.t.Helper()
	if err := os.WriteFile(k.path(name), []byte(content), 0o600); err != nil {
		k.t.Fatal(err)
	}
}

// run runs a program to its end, and gives what it says.
func (k *kdc) run(input, name string, args ...string) string {
	k.t.Helper()
	out, err := k.try(input, name, args...)
	if err != nil {
		k.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

func (k *kdc) try(input, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(k.t.Context(), name, args...)
	cmd.Env, cmd.Stdin = k.env, strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// admin changes a realm's database. kadmin reports no failure by its exit code.
func (k *kdc) admin(realm string, commands ...string) {
	k.t.Helper()
	for _, c := range commands {
		if out := k.run("", "/usr/sbin/kadmin.local", "-r", realm, "-q", c); strings.Contains(out, "while") {
			k.t.Fatalf("%s: %s", c, out)
		}
	}
}

// serve starts the daemon and waits until it says that it is there.
func (k *kdc) serve() {
	k.t.Helper()
	cmd := exec.Command("/usr/sbin/krb5kdc", "-n", "-r", home, "-r", neighbor)
	cmd.Env = k.env
	stderr, err := cmd.StderrPipe()
	if err != nil {
		k.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	ready, said := make(chan bool, 1), make(chan string, 1)
	go func() {
		var all strings.Builder
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			fmt.Fprintln(&all, lines.Text())
			if strings.Contains(lines.Text(), "commencing operation") {
				ready <- true
				break
			}
		}
		close(ready)
		rest, _ := io.ReadAll(stderr)
		said <- all.String() + string(rest)
	}()
	k.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone
		said := <-said
		_ = cmd.Wait() // it was killed
		if k.t.Failed() {
			k.t.Logf("the KDC said:\n%s", said)
		}
	})
	if !<-ready {
		k.t.Fatal("the KDC does not start")
	}
}

// keytab gives new keys to services, and returns them.
func (k *kdc) keytab(realm string, encTypes string, services ...string) []byte {
	k.t.Helper()
	file := k.path("keytab-" + strings.ReplaceAll(services[0], "/", "-") + realm)
	for _, s := range services {
		k.admin(realm, "addprinc -randkey -e "+encTypes+" "+s, "ktadd -norandkey -k "+file+" "+s)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		k.t.Fatal(err)
	}
	return b
}

// login gets a user's first ticket, in place of what there was.
func (k *kdc) login(user string, options ...string) {
	k.t.Helper()
	k.run("secret\n", "/usr/bin/kinit", append(options, user)...)
}

// logout leaves no ticket.
func (k *kdc) logout() {
	k.t.Helper()
	k.run("", "/usr/bin/kdestroy")
}

// client runs testdata/client.py.
func (k *kdc) client(args ...string) (string, error) {
	return k.try("", "/usr/bin/python3", append([]string{"testdata/client.py"}, args...)...)
}
