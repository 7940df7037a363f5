//go:build linux

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// The configuration that adit prints for a kernel with ESP: a partner's curl at adit's door
// starts IPsec by its first packet, which is not sent in clear. As kernels here may have no ESP,
// it is enough that charon agrees on an association.
func TestPartnersFirstPacketStartsIPsec(t *testing.T) {
	l, config := layPlaces(t)
	if n := strings.Count(config, "start_action = trap"); n != 2 {
		t.Fatalf("%d ends have a trap in\n%s", n, config)
	}
	page := l.serveAtHub()
	const door = hubInner + ":1080"
	l.connect(config, "kernel-netlink")
	l.startHub(hubInner, "", fmt.Sprintf(`
[[door]]
listen = %q
tls = false
require_ipsec = true
methods = ["ike"]
identities = { "office.test" = "acme" }
`, door))
	clear := hubNS.watchClear(t, "h0")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	curl := make(chan error, 1)
	go func() {
		text, err := officeNS.output(command(ctx, t.TempDir(), "curl", "-sS", "--fail", "--connect-timeout", "20", "--interface", officeInner, "-x", "socks5h://"+door, "http://"+page+"/small"))
		if err == nil && text != "hello" {
			err = fmt.Errorf("it gets %q", text)
		}
		curl <- err
	}()
	says := func(ns namespace, what string) bool { return strings.Contains(l.charons[ns].log.String(), what) }
	until(t, "that a packet starts it", func() bool { return says(officeNS, "creating acquire job for policy "+officeInner) })
	until(t, "that both agree on who they are", func() bool { return says(officeNS, "IKE_SA adit[1] established") })
	until(t, "that they agree on ESP", func() bool { return says(hubNS, "selected proposal: ESP:AES_GCM_16_128") })
	until(t, "that there is an association, or that the kernel knows none", func() bool {
		return says(hubNS, "CHILD_SA adit{1} established") || says(hubNS, "unable to install inbound and outbound IPsec SA")
	})
	if says(hubNS, "unable to install") {
		cancel() // it would wait for long
		<-curl
	} else if err := <-curl; err != nil {
		t.Error(err)
	}
	if n := clear[1080].Load(); n > 0 {
		t.Errorf("%d packets for the door were in clear", n)
	}
	if clear[500].Load() == 0 {
		t.Error("what was in clear was not seen")
	}
}
