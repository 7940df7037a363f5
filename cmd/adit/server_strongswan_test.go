package main

import (
	"strings"
	"testing"
)

func TestStrongSwanIsConfiguredForBothEnds(t *testing.T) {
	x := ends{
		hub: "192.0.2.1", partner: "gw.example.org", hubNet: "10.8.0.1/32", partnerNet: "10.9.0.0/24", hubID: "hub", partnerID: "partner",
	}
	var out strings.Builder
	if err := x.print(&out); err != nil {
		t.Fatal(err)
	}
	hub, partner, _ := strings.Cut(out.String(), "# For the partner")
	for _, want := range []string{"local_addrs = 192.0.2.1", "remote_addrs = gw.example.org", "local_ts = 10.8.0.1/32", "remote_ts = 10.9.0.0/24", "start_action = trap"} {
		if !strings.Contains(hub, want) {
			t.Errorf("the hub's half lacks %q:\n%s", want, hub)
		}
	}
	for _, want := range []string{"local_addrs = gw.example.org", "remote_addrs = 192.0.2.1", "local_ts = 10.9.0.0/24", "remote_ts = 10.8.0.1/32"} {
		if !strings.Contains(partner, want) {
			t.Errorf("the partner's half lacks %q:\n%s", want, partner)
		}
	}
	secret := func(half string) string {
		_, after, _ := strings.Cut(half, `secret = "`)
		text, _, _ := strings.Cut(after, `"`)
		return text
	}
	if secret(hub) != secret(partner) || len(secret(hub)) < 26 {
		t.Errorf("the secrets are %q and %q", secret(hub), secret(partner))
	}
}

func TestStrongSwanIsNotConfiguredForWhatCannotBe(t *testing.T) {
	good := ends{hub: "192.0.2.1", partner: "192.0.2.2", hubNet: "10.8.0.1/32", partnerNet: "10.9.0.0/24", hubID: "hub", partnerID: "partner"}
	for what, spoil := range map[string]func(*ends){
		`--hub: ""`:            func(x *ends) { x.hub = "" },
		"--hub: \"192.0.2.1:":  func(x *ends) { x.hub = "192.0.2.1:500" },
		"--partner:":           func(x *ends) { x.partner = "a b" },
		"--hub-net:":           func(x *ends) { x.hubNet = "10.8.0.1/16" },
		"--partner-net:":       func(x *ends) { x.partnerNet = "everywhere" },
		"--hub-id:":            func(x *ends) { x.hubID = "hub }" },
		"the networks overlap": func(x *ends) { x.partnerNet = "10.0.0.0/8" },
		"one version of IP":    func(x *ends) { x.partnerNet = "fd00::/64" },
		"have one name":        func(x *ends) { x.partnerID = "hub" },
	} {
		x := good
		spoil(&x)
		if err := x.print(new(strings.Builder)); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
