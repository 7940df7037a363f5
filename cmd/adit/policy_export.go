package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/server/users"
)

const exportNFTablesHelp = `Print what a packet filter can enforce of a policy, as a script for nft -f: for a
gateway whose WireGuard interface the server's guests are peers of, by their addresses inside.
Everything else that comes in by that interface is dropped.

A packet shows no name, no time, nothing of what is spoken and no quota. What that leaves open is
decided so that never more is allowed than by the policy: a rule that denies does so
whatever else it asks, and one that allows does not if it asks for something that cannot
be seen. The script says so at each rule. It knows the users, groups and addresses of
now: print it again when they change. What "allow" in server.toml denies is not in it.

Replies are let through to what the rules of this very script have accepted. Ceilings
are kept by dropping. The marks of connections (ct mark) are used for both.`

func newPolicyExport(e env) *cobra.Command {
	return group("export", "Print a policy for others to enforce", "Print a policy in the words of something else that enforces it.", newExportNFTables(e))
}

func newExportNFTables(e env) *cobra.Command {
	d := dirFlag{kind: serverKind}
	var device string
	c := &cobra.Command{
		Use:     "nftables [FILE]",
		Short:   "Print what a packet filter can enforce of a policy",
		Long:    exportNFTablesHelp,
		Example: "  adit policy export nftables --interface wg0 | nft -f -",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if device == "" || len(device) > 15 || strings.ContainsAny(device, "\"\\*/ \n") {
				return hint(usageError{fmt.Errorf("--interface: %q is no interface", device)}, "ip link names them")
			}
			dir, err := d.open()
			if err != nil {
				return err
			}
			rules, err := policyOf(&d, args)
			if err != nil {
				return err
			}
			peers, err := wireGuardPeers(c.Context(), dir)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(e.stdout, exportNFTables(rules, peers, device))
			return err
		},
	}
	d.add(c)
	c.Flags().StringVar(&device, "interface", "wg0", "`name` of the WireGuard interface")
	return c
}

// peer is a guest of a server's.
type peer struct {
	who   policy.Who
	addrs []netip.Addr // inside WireGuard
}

// wireGuardPeers gives the guests that may come.
func wireGuardPeers(ctx context.Context, dir string) (all []peer, err error) {
	cfg := defaultServerConfig()
	if err := loadConfig(dir, serverKind, &cfg); err != nil {
		return nil, err
	}
	identity, err := keys.LoadServer(filepath.Join(dir, serverKeyFile))
	if err != nil {
		return nil, err
	}
	key, err := identity.WireGuard()
	if err != nil {
		return nil, err
	}
	network, err := newGuestNetwork(cfg.WireGuard, key.Public())
	if err != nil {
		return nil, err
	}
	store, err := users.Open(ctx, filepath.Join(dir, storeFile))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	known, err := store.Users(ctx)
	if err != nil {
		return nil, err
	}
	devices, err := store.Devices(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, u := range known {
		for _, d := range devices {
			if d.User != u.Name || u.Disabled || d.Revoked || !d.Guest() {
				continue
			}
			who := policy.Who{User: u.Name, Groups: u.Groups, Device: d.Name, Door: "wireguard", Method: "guest", Protection: []string{"wireguard"}}
			all = append(all, peer{who, network.of(d)})
		}
	}
	return all, nil
}

// tunnels are IPv6 networks whose addresses lead to IPv4 ones, which rules judge too. That
// they are no targets is less than the rules allow.
const tunnels = `		ip6 daddr { 64:ff9b::/96, 2001::/32, 2002::/16 } drop comment "NAT64, Teredo and 6to4 lead to IPv4 addresses"
		ip6 daddr & ::ffff:ffff:0:0 == ::5efe:0:0 drop comment "ISATAP, too"
		ip6 daddr & ::ffff:ffff:0:0 == ::200:5efe:0:0 drop
`

// exportNFTables writes rules for nft. The marks of connections are other ones in each script.
func exportNFTables(rules *policy.Policy, peers []peer, device string) string {
	senders := make([]policy.Who, len(peers))
	for i, p := range peers {
		senders[i] = p.who
	}
	x := nftables{peers: peers, filters: rules.Filters(senders), device: device}
	h := fnv.New32a()
	h.Write([]byte(x.script()))
	x.marks = h.Sum32() &^ 0xfffff
	return x.script()
}

// nftables is a script in the making.
type nftables struct {
	peers   []peer
	filters []policy.Filter
	device  string
	marks   uint32 // of connections, but for the rule's number

	sets, chains, rules, replies strings.Builder
}

func (x *nftables) script() string {
	for _, b := range []*strings.Builder{&x.sets, &x.chains, &x.rules, &x.replies} {
		b.Reset()
	}
	for i, f := range x.filters {
		x.rule(i+1, f)
	}
	return fmt.Sprintf(`# What a packet filter can enforce of a policy of adit's. Made by: adit policy export nftables
table inet adit
delete table inet adit
table inet adit {
%s
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname %q goto up
		oifname %q goto down
	}
	chain input {
		type filter hook input priority filter; policy accept;
		iifname %q goto up
	}
%s	chain up {
%s%s		ct mark set 0 counter drop comment "no rule allows it"
	}
	chain down {
%s		counter drop comment "no reply to anything that was allowed"
	}
}
`, strings.TrimSuffix(x.sets.String(), "\n"), x.device, x.device, x.device, x.chains.String(), tunnels, x.rules.String(), x.replies.String())
}

// rule writes the lines for one rule.
func (x *nftables) rule(number int, f policy.Filter) {
	r := f.Rule
	fmt.Fprintf(&x.rules, "\n		# line %d: %s\n", r.Line, quoted(r.Name))
	if len(f.Unseen) > 0 {
		what := "allows nothing here"
		if f.Effect == policy.Drop {
			what = "drops all that the rest of it matches"
		}
		fmt.Fprintf(&x.rules, "		# A packet filter cannot heed %s, so that this rule %s.\n", strings.Join(f.Unseen, ", "), what)
	}
	if f.Effect == policy.Skip {
		return
	}
	for _, family := range []string{"ip", "ip6"} {
		if match, ok := x.match(number, f, family); ok {
			for _, command := range f.Commands {
				fmt.Fprintf(&x.rules, "		%s %sgoto rule%d\n", match, commandMatch(command, family, f), number)
			}
		}
	}
	x.verdict(number, f)
}

// verdict writes what becomes of what a rule matches, and of replies to it.
func (x *nftables) verdict(number int, f policy.Filter) {
	if f.Effect == policy.Drop {
		fmt.Fprintf(&x.chains, "	chain rule%d { ct mark set 0 counter drop; }\n", number)
		return
	}
	ceiling := func(way string, rate int64) string {
		if rate == 0 {
			return ""
		}
		name := fmt.Sprintf("%s%d", way, number)
		bytes := max(rate/8, 1)
		// A packet on its way through the kernel may have 64 KiB.
		fmt.Fprintf(&x.sets, "	limit %s { rate over %d bytes/second burst %d bytes; }\n", name, bytes, max(bytes/4, 1<<16))
		return fmt.Sprintf("limit name %q counter drop; ", name)
	}
	mark := x.marks | uint32(number)
	fmt.Fprintf(&x.chains, "	chain rule%d { %sct mark set 0x%08x counter accept; }\n", number, ceiling("up", f.Rule.Limit.CeilingUp), mark)
	fmt.Fprintf(&x.chains, "	chain reply%d { %scounter accept; }\n", number, ceiling("down", f.Rule.Limit.CeilingDown))
	fmt.Fprintf(&x.replies, "		ct direction reply ct mark 0x%08x goto reply%d\n", mark, number)
}

// match gives what has to be so for packets of a family, and whether it can be.
func (x *nftables) match(number int, f policy.Filter, family string) (match string, ok bool) {
	var from []string
	for _, i := range f.Senders {
		for _, a := range x.peers[i].addrs {
			if familyWord(a) == family {
				from = append(from, a.String())
			}
		}
	}
	if len(from) == 0 {
		return "", false
	}
	match = family + " saddr @" + x.set(fmt.Sprintf("rule%d_from", number), family, from)
	for i, to := range f.To {
		in, out := networksOf(to.In, family), networksOf(to.NotIn, family)
		switch {
		case len(in) > 0:
			match += " " + family + " daddr @" + x.set(fmt.Sprintf("rule%d_to%d", number, i), family, in)
		case len(to.In) > 0:
			return "", false
		}
		if len(out) > 0 {
			match += " " + family + " daddr != @" + x.set(fmt.Sprintf("rule%d_but%d", number, i), family, out)
		}
	}
	return match, true
}

// set writes a set and gives its name.
func (x *nftables) set(name, family string, elements []string) string {
	kind := "ipv4_addr"
	if family == "ip6" {
		kind = "ipv6_addr"
	}
	name += "_" + family
	fmt.Fprintf(&x.sets, "	set %s { type %s; flags interval; auto-merge; elements = { %s }; }\n", name, kind, strings.Join(elements, ", "))
	return name
}

// commandMatch gives what packets of a command look like.
func commandMatch(command, family string, f policy.Filter) string {
	switch {
	case command == "ping" && family == "ip":
		return "icmp type echo-request "
	case command == "ping":
		return "icmpv6 type echo-request "
	}
	protocol := "tcp"
	if command == "associate" {
		protocol = "udp"
	}
	match := "meta l4proto " + protocol + " "
	if len(f.Ports) > 0 {
		match += protocol + " dport " + portSet(f.Ports)
	}
	if len(f.NotPorts) > 0 {
		match += protocol + " dport != " + portSet(f.NotPorts)
	}
	return match
}

// portSet writes ports, none of them twice.
func portSet(all []policy.PortRange) string {
	all = slices.SortedFunc(slices.Values(all), func(a, b policy.PortRange) int { return cmp.Compare(a.First, b.First) })
	var merged []policy.PortRange
	for _, p := range all {
		if n := len(merged); n > 0 && int(p.First) <= int(merged[n-1].Last)+1 {
			merged[n-1].Last = max(merged[n-1].Last, p.Last)
			continue
		}
		merged = append(merged, p)
	}
	var texts []string
	for _, p := range merged {
		texts = append(texts, fmt.Sprintf("%d-%d", p.First, p.Last))
		if p.First == p.Last {
			texts[len(texts)-1] = fmt.Sprint(p.First)
		}
	}
	return "{ " + strings.Join(texts, ", ") + " } "
}

// networksOf gives the networks of a family.
func networksOf(all []netip.Prefix, family string) (texts []string) {
	for _, p := range all {
		if familyWord(p.Addr()) == family {
			texts = append(texts, p.String())
		}
	}
	return texts
}

func familyWord(a netip.Addr) string {
	if a.Is4() {
		return "ip"
	}
	return "ip6"
}

// quoted is a rule's name in a comment. It cannot end the line.
func quoted(name string) string { return fmt.Sprintf("%q", name) }
