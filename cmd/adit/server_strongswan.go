package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/spf13/cobra"
)

const strongSwanHelp = `Print a configuration of strongSwan for both ends of an IPsec connection: for the hub,
where this server runs, and for a partner, whose programs come in at a door of the
server's with plain SOCKS. Each half goes into a file in /etc/swanctl/conf.d at its end;
swanctl --load-all takes it over. The secret is made for this one print.

In server.toml the partner then gets a door, with the user who he is:

  [[door]]
  listen = "10.8.0.1:1080"            # the hub's address in --hub-net
  tls = false
  require_ipsec = true                # nothing passes in clear
  methods = ["ike"]
  identities = { "partner" = "acme" } # --partner-id, and adit user add acme

Connections between the two networks start IPsec, and the kernel lets nothing between
them out in clear while it is down ("trap"). adit must be allowed to see it: on Linux it
needs CAP_NET_ADMIN, and charon's socket. Devices with a client of adit's can rest on
the same connection: listen under [ipsec] in server.toml, and "ipsec" among the carriers
in client.toml.`

// ends are those of an IPsec connection.
type ends struct {
	hub, partner       string // addresses or names
	hubNet, partnerNet string
	hubID, partnerID   string
	userSpace          bool
}

func newStrongSwan(e env) *cobra.Command {
	var x ends
	c := &cobra.Command{
		Use:     "print-strongswan --hub HOST --partner HOST --hub-net NET --partner-net NET",
		Short:   "Print a configuration of strongSwan for hub and partner",
		Long:    strongSwanHelp,
		Example: "  adit server print-strongswan --hub 192.0.2.1 --partner 198.51.100.1 --hub-net 10.8.0.1/32 --partner-net 10.9.0.0/24",
		Args:    exactly(),
		RunE:    func(*cobra.Command, []string) error { return x.print(e.stdout) },
	}
	f := c.Flags()
	f.StringVar(&x.hub, "hub", "", "`host` name or address of the hub, as the partner reaches it")
	f.StringVar(&x.partner, "partner", "", "`host` name or address of the partner, as the hub reaches him")
	f.StringVar(&x.hubNet, "hub-net", "", "`network` at the hub that is to be reached through IPsec")
	f.StringVar(&x.partnerNet, "partner-net", "", "`network` at the partner that is to come through IPsec")
	f.StringVar(&x.hubID, "hub-id", "hub", "`name` by which the hub proves who it is")
	f.StringVar(&x.partnerID, "partner-id", "partner", "`name` by which the partner proves who he is")
	f.BoolVar(&x.userSpace, "user-space", false, "for strongSwans that do ESP in user space (kernel-libipsec), which have no traps")
	return c
}

func (x ends) check() error {
	for _, host := range []struct{ flag, text string }{{"hub", x.hub}, {"partner", x.partner}} {
		if badEnd(host.text) {
			return hint(usageError{fmt.Errorf("--%s: %q is no host name and no IP address", host.flag, host.text)}, "write it as 192.0.2.1")
		}
	}
	for _, id := range []struct{ flag, text string }{{"hub-id", x.hubID}, {"partner-id", x.partnerID}} {
		if badEnd(id.text) {
			return hint(usageError{fmt.Errorf("--%s: %q is no name", id.flag, id.text)}, "write it as gateway.example.org")
		}
	}
	for _, net := range []struct{ flag, text string }{{"hub-net", x.hubNet}, {"partner-net", x.partnerNet}} {
		if what := badPrefix(net.text); what != "" {
			return hint(usageError{fmt.Errorf("--%s: %s", net.flag, what)}, "write it as 10.8.0.0/16")
		}
	}
	here, there := netip.MustParsePrefix(x.hubNet), netip.MustParsePrefix(x.partnerNet)
	switch {
	case here.Overlaps(there):
		return hint(usageError{errors.New("the networks overlap")}, "name those that programs have addresses in, here and there")
	case here.Addr().Is4() != there.Addr().Is4():
		return hint(usageError{errors.New("the networks are not of one version of IP")}, "print one connection for each")
	case x.hubID == x.partnerID:
		return hint(usageError{errors.New("both ends have one name")}, "choose another with --partner-id")
	}
	return nil
}

// badEnd is badName where a port is none of it.
func badEnd(name string) bool {
	_, _, err := net.SplitHostPort(name)
	return err == nil || badName(name)
}

func (x ends) print(out io.Writer) error {
	if err := x.check(); err != nil {
		return err
	}
	secret, encap, start := rand.Text(), "no", "trap"
	if x.userSpace {
		encap, start = "yes", "start"
	}
	for _, end := range []struct{ title, local, remote, id, other, net, netThere string }{
		{"the hub", x.hub, x.partner, x.hubID, x.partnerID, x.hubNet, x.partnerNet},
		{"the partner", x.partner, x.hub, x.partnerID, x.hubID, x.partnerNet, x.hubNet},
	} {
		_, err := fmt.Fprintf(out, strongSwanText, end.title, end.local, end.remote, encap, end.id, end.other, end.net, end.netThere, start, start,
			x.hubID, x.partnerID, secret)
		if err != nil {
			return err
		}
	}
	return nil
}

const strongSwanText = `# For %s: a file in /etc/swanctl/conf.d, mode 0600; then swanctl --load-all
connections {
  adit {
    version = 2
    local_addrs = %s
    remote_addrs = %s
    proposals = aes128gcm16-prfsha256-x25519
    encap = %s
    dpd_delay = 10s
    local {
      auth = psk
      id = %s
    }
    remote {
      auth = psk
      id = %s
    }
    children {
      adit {
        local_ts = %s
        remote_ts = %s
        esp_proposals = aes128gcm16-x25519
        start_action = %s
        dpd_action = %s
      }
    }
  }
}
secrets {
  ike-adit {
    id-hub = %s
    id-partner = %s
    secret = "%s"
  }
}

`
