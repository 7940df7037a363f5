package server

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/policy"
)

func TestARecordTellsWhoItWas(t *testing.T) {
	for _, protection := range [][]string{nil, {"tls"}, {"wireguard", "ipsec"}, {"ipsec:aes-gcm-128"}, {"tls", "ipsec:aes-gcm-128", "gss-confidentiality"}} {
		w := policy.Who{
			User: "anna", Groups: []string{"a", "b"}, Device: "laptop", From: netip.MustParseAddr("192.0.2.7"),
			Door: ":1080", Method: "password", Protection: protection, Cipher: "TLS_AES_128_GCM_SHA256",
		}
		if back := whoOf(originOf(w)); !reflect.DeepEqual(back, w) {
			t.Errorf("%+v comes back as %+v", w, back)
		}
	}
}

func TestReplayDecidesByWhatIsOnRecord(t *testing.T) {
	noon := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	flow := func(change func(r *audit.Record)) audit.Record {
		r := audit.Record{
			Kind: audit.Flow, Origin: audit.Origin{User: "anna", Groups: "staff", Dialect: "socks5", Carrier: "tls"}, Begin: noon,
			Command: "connect", Name: "www.example.com", Address: netip.MustParseAddr("192.0.2.7"), Port: 443, Protocol: "tls", Host: "www.example.com",
		}
		if change != nil {
			change(&r)
		}
		return r
	}
	as := flow(nil)
	unheard := flow(func(r *audit.Record) { r.Protocol, r.Host = "", "" })
	nowhere := flow(func(r *audit.Record) { r.Address = netip.Addr{} })
	datagrams := flow(func(r *audit.Record) { r.Command, r.Name = "associate", "" })
	asked := flow(func(r *audit.Record) { r.Command, r.Address, r.Port = "resolve", netip.Addr{}, 53 })
	asks := flow(func(r *audit.Record) {
		r.Command, r.Name, r.Address, r.Port = "resolve", "", netip.IPv4Unspecified(), 53
	})
	tunnel := flow(func(r *audit.Record) { r.Name, r.Address = "", netip.MustParseAddr("64:ff9b::c000:207") })
	number := flow(func(r *audit.Record) { r.Name, r.Address = "192.0.2.7", netip.Addr{} })
	for _, c := range []struct {
		clause string
		record audit.Record
		want   policy.Outcome
		lacks  string
	}{
		{`users = ["anna"]`, as, policy.Allow, ""},
		{`groups = ["staff"]`, as, policy.Allow, ""},
		{`protection = ["wireguard"]`, as, policy.Deny, ""},
		{`names = [".example.com"]`, as, policy.Allow, ""},
		{`names = ["www.example.com"]`, nowhere, policy.Allow, ""},
		{`networks = ["192.0.2.0/24"]`, nowhere, policy.NeedsAddress, "its address"},
		{`networks = ["192.0.2.0/24"]`, tunnel, policy.Allow, ""},
		{`networks = ["192.0.2.0/24"]`, number, policy.Allow, ""},
		{`names = ["192.0.2.7.example.com"]`, number, policy.Deny, ""},
		{`hours = ["08:00-18:00"]`, as, policy.Allow, ""},
		{`hours = ["13:00-18:00"]`, as, policy.Deny, ""},
		{`protocols = ["tls"]`, as, policy.Allow, ""},
		{`protocols = ["ssh"]`, as, policy.Deny, ""},
		{`protocols = ["ssh"]`, unheard, policy.NeedsProtocol, "what was spoken"},
		{`signs = ["none"]`, as, policy.Allow, "whether it was what it looked like"},
		{`signs = ["other-host"]`, as, policy.Deny, ""},
		{`signs = ["other-host"]`, flow(func(r *audit.Record) { r.Host = "other.example.com" }), policy.Allow, ""},
		{`commands = ["associate"]`, datagrams, policy.Allow, ""},
		{`ports = ["443"]`, datagrams, policy.NeedsAddress, "where it went"},
		{`networks = ["192.0.2.0/24"]`, asked, policy.Allow, ""},
		{`names = ["www.example.com"]`, asked, policy.Allow, ""},
		{`names = ["www.example.com"]`, asks, policy.NeedsAddress, "where it went"},
	} {
		d, lacks := Replay(rules(t, "[[rule]]\n"+c.clause+"\nthen = \"allow\"\n"), c.record)
		if d.Outcome != c.want || lacks != c.lacks {
			t.Errorf("%s for %s: %v, %q", c.clause, c.record.Command, d.Outcome, lacks)
		}
	}
}
