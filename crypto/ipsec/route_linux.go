package ipsec

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// What is used of linux/if_link.h and linux/if_tunnel.h for interfaces that do ESP.
const (
	linkXFRMIfID = 2
	linkVTIInKey = 2
	linkVTIOut   = 3
)

// route is where the kernel would send a path's packets.
type route struct {
	source netip.Addr // that the packets would have
	link   link
	mtu    int
}

// link is an interface.
type link struct {
	index         uint32
	name, kind    string // the kind is empty for hardware
	mtu           int
	ifID          uint32 // of kind xfrm
	inKey, outKey uint32 // of kinds vti and vti6
}

// findRoute asks the kernel where it would send p's packets.
func findRoute(p Path) (route, error) {
	question, err := routeQuestion(p)
	if err != nil {
		return route{}, err
	}
	r := route{source: p.Local.Addr()}
	index := uint32(0)
	err = ask(unix.NETLINK_ROUTE, unix.RTM_GETROUTE, unix.NLM_F_ACK, question, func(kind uint16, body []byte) error {
		if kind != unix.RTM_NEWROUTE {
			return nil
		}
		index, err = r.read(body)
		return err
	})
	if err != nil {
		return route{}, fmt.Errorf("find route to %v: %w", p.Remote.Addr(), err)
	}
	if index == 0 || !r.source.IsValid() {
		return route{}, fmt.Errorf("find route to %v: %w", p.Remote.Addr(), errMalformed)
	}
	if r.link, err = findLink(index); err != nil {
		return route{}, fmt.Errorf("find route to %v: %w", p.Remote.Addr(), err)
	}
	if r.mtu == 0 || r.link.mtu != 0 && r.link.mtu < r.mtu {
		r.mtu = r.link.mtu
	}
	return r, nil
}

// routeQuestion is struct rtmsg and its attributes.
func routeQuestion(p Path) ([]byte, error) {
	q := make([]byte, unix.SizeofRtMsg)
	remote, local := p.Remote.Addr(), p.Local.Addr()
	q[0], q[1] = byte(packet{dst: p.Remote}.family()), byte(remote.BitLen())
	q = appendAttribute(q, unix.RTA_DST, remote.AsSlice())
	if local.IsValid() {
		q[2] = byte(local.BitLen())
		q = appendAttribute(q, unix.RTA_SRC, local.AsSlice())
	}
	if zone := remote.Zone(); zone != "" {
		dev, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, fmt.Errorf("find interface %s: %w", zone, err)
		}
		q = appendAttribute(q, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(dev.Index)))
	}
	if p.Mark != 0 {
		q = appendAttribute(q, unix.RTA_MARK, binary.NativeEndian.AppendUint32(nil, p.Mark))
	}
	q = appendAttribute(q, unix.RTA_IP_PROTO, []byte{p.protocol()})
	for kind, port := range map[uint16]uint16{unix.RTA_SPORT: p.Local.Port(), unix.RTA_DPORT: p.Remote.Port()} {
		if port != 0 {
			q = appendAttribute(q, kind, binary.BigEndian.AppendUint16(nil, port))
		}
	}
	return q, nil
}

// read reads struct rtmsg and its attributes, and gives the interface's number.
func (r *route) read(b []byte) (index uint32, err error) {
	if len(b) < unix.SizeofRtMsg {
		return 0, errMalformed
	}
	attrs, err := readAttributes(b[unix.SizeofRtMsg:])
	if err != nil {
		return 0, err
	}
	if source, ok := netip.AddrFromSlice(attrs[unix.RTA_PREFSRC]); ok && !r.source.IsValid() {
		r.source = source
	}
	metrics, err := attrs.nested(unix.RTA_METRICS)
	if err != nil {
		return 0, err
	}
	mtu, err := metrics.uint32(unix.RTAX_MTU)
	if err != nil {
		return 0, err
	}
	r.mtu = int(mtu)
	return attrs.uint32(unix.RTA_OIF)
}

func findLink(index uint32) (l link, err error) {
	question := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(question[4:], index)
	err = ask(unix.NETLINK_ROUTE, unix.RTM_GETLINK, unix.NLM_F_ACK, question, func(kind uint16, body []byte) error {
		if kind == unix.RTM_NEWLINK {
			l, err = parseLink(body)
		}
		return err
	})
	if err == nil && l.name == "" {
		err = errMalformed
	}
	if err != nil {
		return link{}, fmt.Errorf("find interface %d: %w", index, err)
	}
	return l, nil
}

// doesESP tells whether an interface does nothing else.
func (l link) doesESP() bool { return l.kind == "xfrm" || l.kind == "vti" || l.kind == "vti6" }

// ofCharon tells whether an interface may be that of kernel-libipsec, which calls it so.
func (l link) ofCharon() bool { return l.kind == "tun" && strings.HasPrefix(l.name, "ipsec") }

// anyLinkDoesESP tells whether there is an interface by which ESP is done.
func anyLinkDoesESP() (some bool, err error) {
	question := make([]byte, unix.SizeofIfInfomsg)
	err = ask(unix.NETLINK_ROUTE, unix.RTM_GETLINK, unix.NLM_F_DUMP, question, func(kind uint16, body []byte) error {
		if kind != unix.RTM_NEWLINK {
			return nil
		}
		l, err := parseLink(body)
		some = some || l.doesESP() || l.ofCharon()
		return err
	})
	return some, err
}

// parseLink reads struct ifinfomsg and its attributes.
func parseLink(b []byte) (l link, err error) {
	if len(b) < unix.SizeofIfInfomsg {
		return l, errMalformed
	}
	attrs, err := readAttributes(b[unix.SizeofIfInfomsg:])
	if err != nil {
		return l, err
	}
	info, err := attrs.nested(unix.IFLA_LINKINFO)
	if err != nil {
		return l, err
	}
	mtu, err := attrs.uint32(unix.IFLA_MTU)
	if err != nil {
		return l, err
	}
	l = link{index: binary.NativeEndian.Uint32(b[4:]), name: text(attrs[unix.IFLA_IFNAME]), kind: text(info[unix.IFLA_INFO_KIND]), mtu: int(mtu)}
	if !l.doesESP() {
		return l, nil
	}
	data, err := info.nested(unix.IFLA_INFO_DATA)
	if err != nil {
		return l, err
	}
	if l.kind == "xfrm" {
		l.ifID, err = data.uint32(linkXFRMIfID)
		return l, err
	}
	if l.inKey, err = data.bigUint32(linkVTIInKey); err == nil {
		l.outKey, err = data.bigUint32(linkVTIOut)
	}
	return l, err
}

// text is a string that the kernel ends with a zero.
func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// exempt tells whether the administrator has exempted an interface from the
// policies of one direction; the loopback interface is from the start.
func exempt(l link, v4 bool) (bool, error) {
	files := []string{"ipv6/conf/all/disable_policy", filepath.Join("ipv6/conf", l.name, "disable_policy")}
	if v4 {
		files = []string{
			"ipv4/conf/all/disable_policy", filepath.Join("ipv4/conf", l.name, "disable_policy"),
			"ipv4/conf/all/disable_xfrm", filepath.Join("ipv4/conf", l.name, "disable_xfrm"),
		}
	}
	for _, f := range files {
		value, err := os.ReadFile(filepath.Join("/proc/sys/net", f))
		if err != nil {
			return false, fmt.Errorf("see whether policies count: %w", err)
		}
		if strings.TrimSpace(string(value)) != "0" {
			return true, nil
		}
	}
	return false, nil
}
