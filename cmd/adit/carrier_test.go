package main

import (
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/adit-net/adit/crypto/ipsec"
)

// multipathHere tells whether this system has Multipath TCP switched on.
func multipathHere() bool {
	enabled, err := os.ReadFile("/proc/sys/net/mptcp/enabled")
	return runtime.GOOS == "linux" && err == nil && strings.TrimSpace(string(enabled)) == "1"
}

func TestServerLetsDevicesChooseMultipathTCPIfItsConfigSaysSo(t *testing.T) {
	for _, may := range []bool{true, false} {
		all, err := listenMultipath(t.Context(), []string{"127.0.0.1:0"}, may)
		if err != nil {
			t.Fatal(err)
		}
		defer closeAll(all)
		for _, want := range []bool{true, false} {
			var d net.Dialer
			d.SetMultipathTCP(want)
			c, err := d.DialContext(t.Context(), "tcp", all[0].Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.(*net.TCPConn).MultipathTCP()
			if err != nil || got != (may && want && multipathHere()) {
				t.Errorf("allowed is %v, wanted is %v, used is %v, %v", may, want, got, err)
			}
			_ = c.Close()
		}
	}
}

func TestClientAsksForMultipathTCPIfItsConfigSaysSo(t *testing.T) {
	ln, err := listenMultipath(t.Context(), []string{"127.0.0.1:0"}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(ln)
	for _, want := range []bool{true, false} {
		cfg := defaultClientConfig().Server
		cfg.Address, cfg.CA, cfg.MPTCP = ln[0].Addr().String(), true, want
		dial, err := dialServer(cfg, &ipsec.Detector{})
		if err != nil {
			t.Fatal(err)
		}
		used := make(chan bool, 1)
		go func() {
			c, err := ln[0].Accept()
			if err != nil {
				t.Error(err)
				return
			}
			multipath, err := c.(*net.TCPConn).MultipathTCP()
			if err != nil {
				t.Error(err)
			}
			used <- multipath
			_ = c.Close() // there is no TLS here
		}()
		if _, err := dial(t.Context()); err == nil {
			t.Error("a server without TLS was dialled")
		}
		if got := <-used; got != (want && multipathHere()) {
			t.Errorf("the config says %v, used is %v", want, got)
		}
	}
}
