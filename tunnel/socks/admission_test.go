package socks

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDoorsWithoutPasswordStayAtHome(t *testing.T) {
	yes := func(context.Context, netip.AddrPort, string, string) bool { return true }
	dir := t.TempDir()
	socket := func(name string, mode fs.FileMode) *net.UnixAddr {
		a := &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"}
		ln, err := net.ListenUnix("unix", a)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		if err := os.Chmod(a.Name, mode); err != nil {
			t.Fatal(err)
		}
		return a
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const sameUser, anyone, password = 1, 2, 4
	for _, test := range []struct {
		at net.Addr
		ok int
	}{
		{addr(t, "127.0.0.1:1080"), sameUser | anyone | password},
		{addr(t, "127.1.2.3:1080"), sameUser | anyone | password},
		{addr(t, "[::1]:1080"), sameUser | anyone | password},
		{addr(t, "[::ffff:127.0.0.1]:1080"), sameUser | anyone | password},
		{addr(t, "0.0.0.0:1080"), password},
		{addr(t, "[::]:1080"), password},
		{&net.TCPAddr{Port: 1080}, password},
		{addr(t, "192.0.2.1:1080"), password},
		{addr(t, "10.0.0.1:1080"), password},
		{addr(t, "[fe80::1]:1080"), password},
		{addr(t, "[::ffff:192.0.2.1]:1080"), password},
		{socket("private", 0o600), sameUser | anyone | password},
		{socket("narrow", 0o200), sameUser | anyone | password},
		{socket("group", 0o660), anyone | password},
		{socket("others", 0o602), anyone | password},
		{&net.UnixAddr{Name: filepath.Join(dir, "none"), Net: "unix"}, anyone | password},
		{&net.UnixAddr{Name: file, Net: "unix"}, anyone | password},
		{&net.UnixAddr{Name: "@abstract", Net: "unix"}, anyone | password},
		{&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, password},
	} {
		for kind, a := range map[int]Admission{sameUser: {}, anyone: {Anyone: true}, password: {Authenticate: yes}} {
			if err := a.Check(test.at); (err == nil) != (test.ok&kind != 0) {
				t.Errorf("%v, %+v: %v", test.at, a, err)
			}
		}
		if err := (Admission{Anyone: true, Authenticate: yes}).Check(test.at); err == nil {
			t.Errorf("%v: anyone may come and has to give a password", test.at)
		}
	}
}

func TestServeRefusesWhatCheckRefuses(t *testing.T) {
	ln := listen(t, "0.0.0.0:0")
	if err := (&Door{Relay: never{t: t}}).Serve(t.Context(), ln); !errors.Is(err, errNotLocal) {
		t.Errorf("Serve: %v", err)
	}
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("the listener is still open")
	}
}

func TestPasswordTakesOnlyTheOne(t *testing.T) {
	check := Password("fred", "secret")
	for _, test := range []struct {
		user, password string
		want           bool
	}{
		{"fred", "secret", true}, {"fred", "Secret", false}, {"fred", "secret ", false}, {"fred", "", false},
		{"Fred", "secret", false}, {"", "secret", false}, {"", "", false}, {"freds", "ecret", false}, {"secret", "fred", false},
	} {
		if got := check(t.Context(), netip.AddrPort{}, test.user, test.password); got != test.want {
			t.Errorf("%q with %q: %v", test.user, test.password, got)
		}
	}
	if Password("fred", "")(t.Context(), netip.AddrPort{}, "fred", "") {
		t.Error("an empty password is taken")
	}
}

func TestUnknownUsersTakeAsLongAsWrongPasswords(t *testing.T) {
	d := &Door{Relay: never{t: t}}
	d.Admission.Authenticate = Password("fred", strings.Repeat("s", 200))
	measure := func(user, password string) time.Duration {
		login := "\x05\x01\x02\x01" + string([]byte{byte(len(user))}) + user + string([]byte{byte(len(password))}) + password
		began := time.Now()
		for range 20 {
			run(t, &Door{Relay: &recorder{}, Admission: d.Admission}, newScript([]byte(login)))
		}
		return time.Since(began)
	}
	// Alternating, and the best of many, so that other work on the machine does not
	// decide.
	unknown, wrong := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
	for range 50 {
		unknown = min(unknown, measure("anna", strings.Repeat("s", 200)))
		wrong = min(wrong, measure("fred", strings.Repeat("s", 199)+"t"))
	}
	if ratio := float64(unknown) / float64(wrong); ratio < 0.5 || ratio > 2 {
		t.Errorf("an unknown user takes %v, a wrong password %v", unknown, wrong)
	}
}

func TestAuthenticateIsNotAskedAboutAbsurdPasswords(t *testing.T) {
	d := &Door{Relay: never{t: t}}
	d.Admission.Authenticate = func(_ context.Context, _ netip.AddrPort, user, password string) bool {
		t.Errorf("asked about a user with %d bytes and a password with %d", len(user), len(password))
		return false
	}
	c := dial(t, openDoor(t, d))
	for _, login := range []string{
		basic("fred", ""), basic(strings.Repeat("u", 256), "p"), basic("fred", strings.Repeat("p", 256)),
	} {
		send(t, c, "CONNECT example.com:80 HTTP/1.1\r\n"+login+"\r\n")
	}
	c2 := dial(t, openDoor(t, d))
	send(t, c2, "\x05\x01\x02\x01\x04fred\x00")
	expect(t, c2, "\x05\x02\x01\x01")
	expectEnd(t, c2)
}

func TestListenUnixGivesAPrivateSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "door")
	for range 2 { // the second time after a Close
		ln, err := ListenUnix(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(path)
		if err != nil || info.Mode() != fs.ModeSocket|0o600 || ln.Addr().String() != path {
			t.Errorf("%v is there (%v), the address is %v", info.Mode(), err, ln.Addr())
		}
		if err := (Admission{}).Check(ln.Addr()); err != nil {
			t.Error(err)
		}
		if _, err := ListenUnix(path); err == nil {
			t.Error("a socket that is alive is replaced")
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatalf("the socket does not live after another tried to replace it: %v", err)
		}
		c.Close()
		ln.Close()
		if names := filesIn(t, dir); len(names) > 0 {
			t.Errorf("left behind: %v", names)
		}
	}
}

func TestListenUnixReplacesOnlyDeadSockets(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	old.Close()
	ln, err := ListenUnix(dead)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()

	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dead, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link, dir} {
		if _, err := ListenUnix(path); err == nil {
			t.Errorf("%s is replaced", path)
		}
	}
	if b, err := os.ReadFile(file); string(b) != "precious" {
		t.Errorf("the file has %q (%v)", b, err)
	}
	if names := filesIn(t, dir); !slices.Equal(names, []string{"dead", "file", "link"}) {
		t.Errorf("there are %v", names)
	}
}

func TestCloseLeavesTheNextListenersSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "door")
	first, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	first.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the second socket is gone: %v", err)
	}
}

func filesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
