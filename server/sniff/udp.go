package sniff

import (
	"bytes"
	"encoding/binary"
)

// A datagramTest says whether a datagram for a port is of its protocol: sure, or
// likely if more of the kind must come.
type datagramTest func(b []byte, port uint16) (Protocol, grade)

// datagramTests are asked in this order, those with the best signs first.
var datagramTests = [...]datagramTest{
	isSTUN, isDTLS, isWireGuard, isIKE, textOfUDP, signOfUDP,
	isSNMP, kerberosOfUDP, isDHCP, isRADIUS, isL2TP, dnsOfUDP, isTFTP, isRAS,
	isRTCP, looksRTP, isNTP, isCoAP, looksOpenVPN, looksUTP,
}

func sureIf(isIt bool, p Protocol) (Protocol, grade) {
	if isIt {
		return p, sure
	}
	return "", never
}

func isSTUN(b []byte, _ uint16) (Protocol, grade) {
	if len(b) < 20 || b[0] > 3 || b[3]&3 != 0 || int(binary.BigEndian.Uint16(b[2:]))+20 > len(b) {
		return "", never
	}
	if binary.BigEndian.Uint32(b[4:]) == 0x2112a442 {
		return STUN, sure
	}
	classic := b[0] < 2 && b[1] == 1 && int(binary.BigEndian.Uint16(b[2:]))+20 == len(b) // RFC 3489
	if classic {
		return STUN, likely
	}
	return "", never
}

func isDTLS(b []byte, _ uint16) (Protocol, grade) {
	if len(b) < 14 || b[0] < 0x14 || b[0] > 0x17 {
		return "", never
	}
	version := binary.BigEndian.Uint16(b[1:])
	size := int(binary.BigEndian.Uint16(b[11:]))
	return sureIf((version == 0xfeff || version == 0xfefd || version == 0x0100) && size > 0 && 13+size <= len(b), DTLS)
}

func isWireGuard(b []byte, _ uint16) (Protocol, grade) {
	if len(b) < 32 || b[1] != 0 || b[2] != 0 || b[3] != 0 {
		return "", never
	}
	switch {
	case b[0] == 1 && len(b) == 148, b[0] == 2 && len(b) == 92, b[0] == 3 && len(b) == 64:
		return WireGuard, sure
	case b[0] == 4 && len(b)%16 == 0:
		return WireGuard, likely
	}
	return "", never
}

// isIKE takes versions 1 and 2, with or without the marker of RFC 3948.
func isIKE(b []byte, _ uint16) (Protocol, grade) {
	if len(b) >= 4 && string(b[:4]) == "\x00\x00\x00\x00" {
		b = b[4:]
	}
	if len(b) < 28 || int(binary.BigEndian.Uint32(b[24:])) != len(b) {
		return "", never
	}
	first := binary.BigEndian.Uint64(b) != 0
	v2 := b[17] == 0x20 && b[18] >= 34 && b[18] <= 43
	v1 := b[17] == 0x10 && (b[18] == 2 || b[18] == 4 || b[18] == 5 || b[18] == 6 || b[18] == 32)
	return sureIf(first && (v1 || v2), IKE)
}

// textOfUDP is for protocols whose first line tells what they are.
func textOfUDP(b []byte, port uint16) (Protocol, grade) {
	if !isText(b[:min(len(b), 16)]) {
		return "", never
	}
	line, _, _ := bytes.Cut(b[:min(len(b), limit)], []byte("\n"))
	line = bytes.TrimRight(line, "\r")
	switch {
	case bytes.HasSuffix(line, []byte(" SIP/2.0")), bytes.HasPrefix(line, []byte("SIP/2.0 ")):
		return SIP, sure
	case bytes.HasPrefix(line, []byte("BT-SEARCH * HTTP/")):
		return BitTorrent, sure
	case bytes.HasPrefix(line, []byte("M-SEARCH * HTTP/")), bytes.HasPrefix(line, []byte("NOTIFY * HTTP/")):
		return SSDP, sure
	case bytes.HasSuffix(line, []byte(" MGCP 1.0")):
		return MGCP, sure
	case len(line) > 4 && line[0] == '<' && bytes.IndexByte(line[:5], '>') > 1 && '0' <= line[1] && line[1] <= '9':
		if port == 514 {
			return Syslog, sure
		}
		return Syslog, likely
	}
	return "", never
}

// signsOfUDP are constant strings as those of connections.
var signsOfUDP = [...]sign{
	{"d1:ad2:id20:", BitTorrent},
	{"d1:rd2:id20:", BitTorrent},
	{"d2:ip6:", BitTorrent},
	{"\x00\x00\x04\x17\x27\x10\x19\x80\x00\x00\x00\x00", BitTorrent}, // to a tracker
	{"????\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01\x86", SunRPC},
	{"\xff\xff\xff\xff??\x00\x01", RDP},
	{"\xff\xff\xff\xff??\x10\x01", RDP},
}

func signOfUDP(b []byte, _ uint16) (Protocol, grade) {
	for i := range signsOfUDP {
		s := &signsOfUDP[i]
		if begins(b, s.magic) == sure && (s.protocol != RDP || len(b) >= 1000) {
			return s.protocol, sure
		}
	}
	return "", never
}

// isSNMP takes all versions, and LDAP over UDP beside it, which begins alike.
func isSNMP(b []byte, _ uint16) (Protocol, grade) {
	if len(b) < 8 || b[0] != 0x30 {
		return "", never
	}
	size, n := berLength(b[1:])
	if n <= 0 || 1+n+size != len(b) {
		return "", never
	}
	inner := b[1+n:]
	if len(inner) > 5 && inner[0] == 2 && inner[1] == 1 {
		if v := inner[2]; v <= 1 && inner[3] == 0x04 {
			at := 5 + int(inner[4])
			return sureIf(len(inner) > at && inner[at] >= 0xa0 && inner[at] <= 0xa8, SNMP)
		} else if v == 3 && inner[3] == 0x30 {
			return SNMP, sure
		}
	}
	return sureIf(ldap(head{b: b}) == is(LDAP), LDAP)
}

func kerberosOfUDP(b []byte, _ uint16) (Protocol, grade) {
	return sureIf(len(b) >= 20 && isKerberos(b, len(b)), Kerberos)
}

func isDHCP(b []byte, _ uint16) (Protocol, grade) {
	return sureIf(len(b) >= 240 && (b[0] == 1 || b[0] == 2) && string(b[236:240]) == "\x63\x82\x53\x63", DHCP)
}

// isRADIUS follows the attributes to the end of the packet.
func isRADIUS(b []byte, _ uint16) (Protocol, grade) {
	const header = 20
	if len(b) <= header || int(binary.BigEndian.Uint16(b[2:])) != len(b) {
		return "", never
	}
	if b[0] == 0 || b[0] > 5 && b[0] != 11 && (b[0] < 40 || b[0] > 45) {
		return "", never
	}
	for b = b[header:]; len(b) > 0; b = b[b[1]:] {
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return "", never
		}
	}
	return RADIUS, sure
}

func isL2TP(b []byte, _ uint16) (Protocol, grade) {
	return sureIf(len(b) >= 12 && b[0] == 0xc8 && b[1]&15 == 2 && int(binary.BigEndian.Uint16(b[2:])) == len(b), L2TP)
}

// dnsOfUDP also takes the names of NetBIOS, which have the same form.
func dnsOfUDP(b []byte, port uint16) (Protocol, grade) {
	_, ok := readDNS(b)
	if ok && port == 137 {
		return NetBIOS, sure
	}
	return sureIf(ok, DNS)
}

// isTFTP is for the request, RFC 1350: a name and a mode.
func isTFTP(b []byte, _ uint16) (Protocol, grade) {
	if len(b) < 9 || b[0] != 0 || b[1] != 1 && b[1] != 2 {
		return "", never
	}
	name, rest, ok := bytes.Cut(b[2:min(len(b), 512)], []byte{0})
	mode, _, ended := bytes.Cut(rest, []byte{0})
	return sureIf(ok && ended && len(name) > 0 && isText(name) && (equalFold(mode, "octet") || equalFold(mode, "netascii") || equalFold(mode, "mail")), TFTP)
}

// isRAS knows the messages of H.225 that name their protocol, and at their port
// the others as well.
func isRAS(b []byte, port uint16) (Protocol, grade) {
	if len(b) < 11 {
		return "", never
	}
	const oid = "\x06\x00\x08\x91\x4a\x00"
	index := b[0] >> 2 // with the bit that extends it on top
	named := index <= 4 && string(b[4:10]) == oid
	return sureIf(named || index <= 24 && (port == 1718 || port == 1719), RAS)
}

func isNTP(b []byte, port uint16) (Protocol, grade) {
	if len(b) < 48 || len(b) > 100 || len(b)%4 != 0 {
		return "", never
	}
	version, mode := b[0]>>3&7, b[0]&7
	switch {
	case version < 1 || version > 4 || b[1] > 16 || mode != 3 && mode != 4 && mode != 1 && mode != 2:
		return "", never
	case port == 123:
		return NTP, sure
	case len(b) == 48 && version >= 3 && mode == 3:
		return NTP, likely
	}
	return "", never
}

func isCoAP(b []byte, port uint16) (Protocol, grade) {
	return sureIf(port == 5683 && len(b) >= 4 && b[0]&0xc0 == 0x40 && b[0]&15 <= 8, CoAP)
}

// looksOpenVPN is for the packet with which a client begins: an opcode with key 0.
func looksOpenVPN(b []byte, port uint16) (Protocol, grade) {
	if len(b) < 14 || len(b) > 1200 || b[0] != 0x38 && b[0] != 0x50 {
		return "", never
	}
	if port == 1194 || len(b) == 14 && begins(b[9:], "\x00\x00\x00\x00\x00") == sure {
		return OpenVPN, sure
	}
	return OpenVPN, likely
}

// looksUTP is for BitTorrent's transport, BEP 29: a connection of several packets
// whose versions and types fit.
func looksUTP(b []byte, _ uint16) (Protocol, grade) {
	if len(b) < 20 || b[0]&15 != 1 || b[0]>>4 > 4 || b[1] > 4 {
		return "", never
	}
	return BitTorrent, likely
}
