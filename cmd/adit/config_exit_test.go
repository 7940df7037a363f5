package main

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"
)

func TestServerTriesByWhatWayTheExitsPacketsGo(t *testing.T) {
	if err := (exitConfig{}).try(); err != nil || (exitConfig{}).steer() != nil {
		t.Errorf("without a way of their own: %v", err)
	}
	if !canSteer {
		c := defaultServerConfig()
		if err := parseConfig("c", []byte("[exit]\nmark = 7\n"), &c); err == nil {
			t.Error("a mark is taken where there are none")
		}
		return
	}
	for _, c := range []exitConfig{{Mark: 7}, {Interface: "lo"}} {
		if err := c.try(); err != nil && !errors.Is(err, fs.ErrPermission) { // a mark may take more than the tests have
			t.Errorf("%+v: %v", c, err)
		}
	}
	if err := (exitConfig{Interface: "none0"}).try(); !errors.Is(err, syscall.ENODEV) {
		t.Errorf("by an interface that is not there: %v", err)
	}
}
