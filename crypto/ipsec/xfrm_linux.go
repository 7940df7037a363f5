package ipsec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// What is used of linux/xfrm.h: messages, attributes, and sizes of structures.
const (
	xfrmNewState  = 0x10
	xfrmGetState  = 0x12
	xfrmNewPolicy = 0x13
	xfrmGetPolicy = 0x15

	xfrmAuth      = 1
	xfrmCrypt     = 2
	xfrmEncap     = 4
	xfrmTemplates = 5
	xfrmKind      = 16 // of a policy
	xfrmAEAD      = 18
	xfrmAuthTrunc = 20
	xfrmMark      = 21
	xfrmIfID      = 31
	xfrmDirection = 33 // of a state, since Linux 6.10

	sizeofSelector  = 56
	sizeofStateInfo = 224
	sizeofPolicy    = 168
	sizeofTemplate  = 64
	sizeofAlgorithm = 64 + 4 // a name and the key's size in bits; then the key, or a size more
)

// direction is where a policy is asked.
type direction uint8

const (
	inward  direction = 0
	outward direction = 1
)

// mode is how the kernel numbers them.
type mode uint8

const (
	modeTransport mode = 0
	modeTunnel    mode = 1
	modeBEET      mode = 4
)

// selector says for which packets something is.
type selector struct {
	family           uint16 // 0 is any, and then the addresses mean nothing
	src, dst         netip.Prefix
	srcPort, dstPort uint16
	srcMask, dstMask uint16 // 0 is any port
	protocol         uint8  // 0 is any
	iface, user      uint32 // 0 is any
}

// mark is that of packets for which something is.
type mark struct{ value, mask uint32 }

func (m mark) on(p packet) likelihood {
	switch {
	case m == mark{}:
		return yes
	case p.anyMark:
		return maybe
	case p.mark&m.mask == m.value:
		return yes
	}
	return no
}

// template is one transformation that a policy asks for.
type template struct {
	src, dst netip.Addr // of the outer header; invalid is any
	spi      uint32     // 0 is any
	reqID    uint32
	protocol uint8
	mode     mode
	optional bool
}

// policy is one of the security policy database, see RFC 4301 section 4.4.1.
type policy struct {
	selector
	mark
	ifID      uint32
	dir       direction
	priority  uint32 // the lowest wins
	block     bool
	templates []template
}

// state is a security association, see RFC 4301 section 4.4.2.
type state struct {
	selector
	mark
	ifID      uint32
	src, dst  netip.Addr // of the outer header
	spi       uint32
	reqID     uint32
	protocol  uint8
	mode      mode
	direction uint32 // 1 is in, 2 out, 0 is not said
	natt      bool
	otherWrap bool // in something else than UDP
	since     time.Time
	cipher    transform
	keyed     bool // it has a key: the kernel is not still waiting for one
}

// database is what the kernel has of both.
type database struct {
	policies []policy
	states   []state
}

// readDatabase asks the kernel, which takes CAP_NET_ADMIN. A kernel without
// IPsec has none.
func readDatabase() (*database, error) {
	db := &database{}
	err := ask(unix.NETLINK_XFRM, xfrmGetPolicy, unix.NLM_F_DUMP, nil, db.add)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return db, nil
	}
	if err == nil {
		err = ask(unix.NETLINK_XFRM, xfrmGetState, unix.NLM_F_DUMP, nil, db.add)
	}
	if err != nil {
		return nil, fmt.Errorf("read IPsec policies and associations: %w", err)
	}
	return db, nil
}

func (db *database) add(kind uint16, body []byte) error {
	switch kind {
	case xfrmNewPolicy:
		p, ok, err := parsePolicy(body)
		if err != nil {
			return err
		}
		if ok {
			db.policies = append(db.policies, p)
		}
	case xfrmNewState:
		s, err := parseState(body)
		if err != nil {
			return err
		}
		db.states = append(db.states, s)
	}
	return nil
}

// parsePolicy reads struct xfrm_userpolicy_info and its attributes; ok is false
// if it is none of those that count here: for what is passed on, of one socket,
// or of the kind that comes before the main ones and can only add to them.
func parsePolicy(b []byte) (p policy, ok bool, err error) {
	if len(b) < sizeofPolicy {
		return p, false, fmt.Errorf("policy: %w", errMalformed)
	}
	attrs, err := readAttributes(b[sizeofPolicy:])
	if err != nil {
		return p, false, fmt.Errorf("policy: %w", err)
	}
	p.dir, p.priority, p.block = direction(b[160]), binary.NativeEndian.Uint32(b[152:]), b[161] != 0
	if kind := attrs[xfrmKind]; p.dir > outward || len(kind) > 0 && kind[0] != 0 {
		return p, false, nil
	}
	if p.selector, err = parseSelector(b); err != nil {
		return p, false, fmt.Errorf("policy: %w", err)
	}
	if p.mark, p.ifID, err = parseMark(attrs); err != nil {
		return p, false, fmt.Errorf("policy: %w", err)
	}
	for t := attrs[xfrmTemplates]; len(t) > 0; t = t[sizeofTemplate:] {
		if len(t) < sizeofTemplate {
			return p, false, fmt.Errorf("policy: template: %w", errMalformed)
		}
		p.templates = append(p.templates, parseTemplate(t))
	}
	return p, true, nil
}

func parseTemplate(b []byte) template {
	family := binary.NativeEndian.Uint16(b[24:])
	return template{
		dst: someAddr(family, b), spi: binary.BigEndian.Uint32(b[16:]), protocol: b[20],
		src: someAddr(family, b[28:]), reqID: binary.NativeEndian.Uint32(b[44:]), mode: mode(b[48]), optional: b[50] != 0,
	}
}

// parseSelector reads struct xfrm_selector.
func parseSelector(b []byte) (s selector, err error) {
	s = selector{
		dstPort: binary.BigEndian.Uint16(b[32:]), dstMask: binary.BigEndian.Uint16(b[34:]),
		srcPort: binary.BigEndian.Uint16(b[36:]), srcMask: binary.BigEndian.Uint16(b[38:]),
		family: binary.NativeEndian.Uint16(b[40:]), protocol: b[44],
		iface: binary.NativeEndian.Uint32(b[48:]), user: binary.NativeEndian.Uint32(b[52:]),
	}
	if s.family == unix.AF_UNSPEC {
		return s, nil
	}
	dst, src := addr(s.family, b), addr(s.family, b[16:])
	s.dst, s.src = netip.PrefixFrom(dst, int(b[42])), netip.PrefixFrom(src, int(b[43]))
	if !s.dst.IsValid() || !s.src.IsValid() {
		return s, fmt.Errorf("selector: %w", errMalformed)
	}
	return s, nil
}

func parseMark(attrs attributes) (m mark, ifID uint32, err error) {
	if b := attrs[xfrmMark]; len(b) >= 8 {
		m = mark{value: binary.NativeEndian.Uint32(b), mask: binary.NativeEndian.Uint32(b[4:])}
	} else if len(b) > 0 {
		return m, 0, errMalformed
	}
	ifID, err = attrs.uint32(xfrmIfID)
	return m, ifID, err
}

// parseState reads struct xfrm_usersa_info and its attributes.
func parseState(b []byte) (s state, err error) {
	if len(b) < sizeofStateInfo {
		return s, fmt.Errorf("association: %w", errMalformed)
	}
	attrs, err := readAttributes(b[sizeofStateInfo:])
	if err != nil {
		return s, fmt.Errorf("association: %w", err)
	}
	if s.selector, err = parseSelector(b); err != nil {
		return s, fmt.Errorf("association: %w", err)
	}
	if s.mark, s.ifID, err = parseMark(attrs); err != nil {
		return s, fmt.Errorf("association: %w", err)
	}
	family := binary.NativeEndian.Uint16(b[212:])
	s.dst, s.spi, s.protocol = addr(family, b[sizeofSelector:]), binary.BigEndian.Uint32(b[72:]), b[76]
	s.src, s.reqID, s.mode = addr(family, b[80:]), binary.NativeEndian.Uint32(b[208:]), mode(b[214])
	s.since = time.Unix(int64(binary.NativeEndian.Uint64(b[160+16:])), 0)
	if d := attrs[xfrmDirection]; len(d) > 0 {
		s.direction = uint32(d[0])
	}
	if e := attrs[xfrmEncap]; len(e) >= 2 {
		kind := binary.NativeEndian.Uint16(e)
		s.natt = kind == unix.UDP_ENCAP_ESPINUDP || kind == unix.UDP_ENCAP_ESPINUDP_NON_IKE
		s.otherWrap = !s.natt
	}
	if s.cipher, s.keyed, err = parseAlgorithms(attrs); err != nil {
		return s, fmt.Errorf("association: %w", err)
	}
	return s, nil
}

// parseAlgorithms reads struct xfrm_algo and those like it. It takes no keys.
func parseAlgorithms(attrs attributes) (t transform, keyed bool, err error) {
	var cipher, integrity algorithm
	for _, a := range []struct {
		kind  uint16
		sized bool // a size follows the key's
		to    *algorithm
	}{
		{xfrmAEAD, true, &cipher}, {xfrmCrypt, false, &cipher}, {xfrmAuthTrunc, true, &integrity}, {xfrmAuth, false, &integrity},
	} {
		b, there := attrs[a.kind]
		if !there || a.to.name != "" {
			continue
		}
		size := sizeofAlgorithm
		if a.sized {
			size += 4
		}
		if len(b) < size {
			return t, false, fmt.Errorf("algorithm: %w", errMalformed)
		}
		name, _, _ := bytes.Cut(b[:64], []byte{0})
		*a.to = algorithm{name: string(name), keyBits: int(binary.NativeEndian.Uint32(b[64:]))}
		if a.sized {
			a.to.checkBits = int(binary.NativeEndian.Uint32(b[68:]))
		}
		keyed = true
	}
	_, aead := attrs[xfrmAEAD]
	return kernelTransform(cipher, integrity, aead), keyed, nil
}

// addr reads an xfrm_address_t. It is invalid for an unknown family.
func addr(family uint16, b []byte) netip.Addr {
	switch family {
	case unix.AF_INET:
		return netip.AddrFrom4([4]byte(b))
	case unix.AF_INET6:
		return netip.AddrFrom16([16]byte(b))
	}
	return netip.Addr{}
}

// someAddr is addr, and invalid for the address that stands for any.
func someAddr(family uint16, b []byte) netip.Addr {
	if a := addr(family, b); !a.IsUnspecified() {
		return a
	}
	return netip.Addr{}
}
