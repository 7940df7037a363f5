package main

import (
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// another gives an algorithm that everybody may use and that is not the system's choice; reno
// is in every kernel.
func another(t *testing.T) congestion {
	t.Helper()
	usual, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	allowed, err2 := os.ReadFile("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	all := append(strings.Fields(string(allowed)), "reno")
	i := slices.IndexFunc(all, func(name string) bool { return name != strings.TrimSpace(string(usual)) })
	return congestion(all[max(i, 0)])
}

func congestionOf(t *testing.T, c net.Conn) congestion {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var name string
	if e := raw.Control(func(fd uintptr) { name, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return congestion(name)
}

func TestCarriersSendAsTheConfigsAlgorithmSays(t *testing.T) {
	want := another(t)
	for _, multipath := range []bool{false, true} {
		all, err := listenMultipath(t.Context(), []string{"127.0.0.1:0"}, multipath)
		if err != nil {
			t.Fatal(err)
		}
		defer closeAll(all)
		for _, chosen := range []congestion{want, ""} {
			d := net.Dialer{ControlContext: remoteConfig{Congestion: chosen}.steer(nil)}
			d.SetMultipathTCP(multipath)
			near, err := d.DialContext(t.Context(), "tcp", all[0].Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer near.Close()
			far, err := chosen.listener(all[0]).Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer far.Close()
			for end, c := range map[string]net.Conn{"client": near, "server": far} {
				if got := congestionOf(t, c); (got == want) != (chosen == want) {
					t.Errorf("%s, multipath %v: the config says %q, it is %q", end, multipath, chosen, got)
				}
			}
		}
	}
}

func TestCongestionLeavesUDPAlone(t *testing.T) {
	d := net.Dialer{ControlContext: remoteConfig{Congestion: another(t)}.steer(nil)}
	c, err := d.DialContext(t.Context(), "udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestCongestionIsTried(t *testing.T) {
	for _, c := range []congestion{"", "reno", another(t)} {
		if err := c.try(); err != nil {
			t.Errorf("%q: %v", c, err)
		}
	}
	err := congestion("none0").try()
	if h, ok := errors.AsType[hinted](err); !ok || !strings.Contains(err.Error(), "has no") || !strings.Contains(h.hint, "reno") {
		t.Errorf("an algorithm that there is not: %v", err)
	}
}

func TestNamesOfAlgorithmsAreShortWords(t *testing.T) {
	for name, good := range map[congestion]bool{"": true, "bbr": true, "dctcp_reno": true, "b b": false, "0123456789012345": false, "\x00": false, "ä": false} {
		said := ""
		name.validate("congestion", func(_, what, _ string) { said = what })
		if (said == "") != good {
			t.Errorf("%q: %q", name, said)
		}
	}
}
