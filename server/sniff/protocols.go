package sniff

import (
	"iter"
	"slices"
)

// A Protocol is the name of an application protocol, as rules and records
// spell it. The empty one means that none is known yet.
type Protocol string

// Unknown is the protocol of a flow that is none of the others.
const Unknown Protocol = "unknown"

// The protocols that are recognised by how a connection or a datagram begins.
const (
	AMQP       Protocol = "amqp"
	AJP        Protocol = "ajp"
	BitTorrent Protocol = "bittorrent"
	Bitcoin    Protocol = "bitcoin"
	Cassandra  Protocol = "cassandra"
	CoAP       Protocol = "coap"
	DCERPC     Protocol = "dcerpc"
	DHCP       Protocol = "dhcp"
	DNS        Protocol = "dns"
	DTLS       Protocol = "dtls"
	EDonkey    Protocol = "edonkey"
	FIX        Protocol = "fix"
	FTP        Protocol = "ftp"
	Git        Protocol = "git"
	Gnutella   Protocol = "gnutella"
	H225       Protocol = "h225"
	H245       Protocol = "h245"
	HTTP       Protocol = "http"
	HTTP2      Protocol = "http2"
	ICA        Protocol = "ica"
	ICY        Protocol = "icy"
	IIOP       Protocol = "iiop"
	IKE        Protocol = "ike"
	IMAP       Protocol = "imap"
	IRC        Protocol = "irc"
	ISCSI      Protocol = "iscsi"
	JDWP       Protocol = "jdwp"
	Kafka      Protocol = "kafka"
	Kerberos   Protocol = "kerberos"
	L2TP       Protocol = "l2tp"
	LDAP       Protocol = "ldap"
	Memcached  Protocol = "memcached"
	MGCP       Protocol = "mgcp"
	MMS        Protocol = "mms"
	MongoDB    Protocol = "mongodb"
	MQTT       Protocol = "mqtt"
	MSSQL      Protocol = "mssql"
	MySQL      Protocol = "mysql"
	NATS       Protocol = "nats"
	NetBIOS    Protocol = "netbios"
	NNTP       Protocol = "nntp"
	NTP        Protocol = "ntp"
	OpenVPN    Protocol = "openvpn"
	Oracle     Protocol = "oracle"
	PNA        Protocol = "pna"
	POP3       Protocol = "pop3"
	PostgreSQL Protocol = "postgresql"
	PPTP       Protocol = "pptp"
	QUIC       Protocol = "quic"
	RADIUS     Protocol = "radius"
	RAS        Protocol = "ras"
	RDP        Protocol = "rdp"
	Redis      Protocol = "redis"
	RMI        Protocol = "rmi"
	Rsync      Protocol = "rsync"
	RTCP       Protocol = "rtcp"
	RTMP       Protocol = "rtmp"
	RTP        Protocol = "rtp"
	RTSP       Protocol = "rtsp"
	SIP        Protocol = "sip"
	SMB        Protocol = "smb"
	SMTP       Protocol = "smtp"
	SNMP       Protocol = "snmp"
	SOCKS      Protocol = "socks"
	SPICE      Protocol = "spice"
	SSDP       Protocol = "ssdp"
	SSH        Protocol = "ssh"
	STOMP      Protocol = "stomp"
	STUN       Protocol = "stun"
	SunRPC     Protocol = "sunrpc"
	SVN        Protocol = "svn"
	Syslog     Protocol = "syslog"
	Telnet     Protocol = "telnet"
	TFTP       Protocol = "tftp"
	TLS        Protocol = "tls"
	TPKT       Protocol = "tpkt"
	VNC        Protocol = "vnc"
	WireGuard  Protocol = "wireguard"
	X11        Protocol = "x11"
	XMPP       Protocol = "xmpp"
)

// What another protocol may carry: see [Verdict.Carries]. Java's objects and
// classes are found by themselves as well.
const (
	ConnectUDP  Protocol = "connect-udp"
	DASH        Protocol = "dash"
	DoH         Protocol = "doh"
	GRPC        Protocol = "grpc"
	HLS         Protocol = "hls"
	JavaArchive Protocol = "java-archive"
	JavaClass   Protocol = "java-class"
	JavaObjects Protocol = "java-objects"
	JNLP        Protocol = "jnlp"
	Progressive Protocol = "progressive"
	RDT         Protocol = "rdt"
	Smooth      Protocol = "smooth"
	WebSocket   Protocol = "websocket"
)

// A Transport is what a protocol runs on.
type Transport uint8

// Transports, which may be added up.
const (
	OnTCP     Transport = 1 << iota
	OnUDP               // datagrams
	InAnother           // HTTP, mostly
)

// A Group is what people use a protocol for.
type Group string

// Groups of protocols.
const (
	Web       Group = "web"
	Mail      Group = "mail"
	File      Group = "file"
	Media     Group = "media"
	VoIP      Group = "voip"
	Chat      Group = "chat"
	Database  Group = "db"
	Messaging Group = "messaging"
	Remote    Group = "remote"
	P2P       Group = "p2p"
	Java      Group = "java"
	VPN       Group = "vpn"
	Network   Group = "network" // what keeps a network running
)

// Info is what is known of a protocol as such.
type Info struct {
	Name      Protocol
	Group     Group
	Transport Transport
	Encrypted bool     // nobody between its two ends can read it
	Ports     []uint16 // where it is expected; not to be written to
}

// Protocols goes through all of them, in no promised order.
func Protocols() iter.Seq[Info] { return slices.Values(table[:]) }

// Lookup gives what is known of a protocol, and whether there is one of that
// name. It does not know [Unknown].
func Lookup(name Protocol) (Info, bool) {
	i := slices.IndexFunc(table[:], func(i Info) bool { return i.Name == name })
	if i < 0 {
		return Info{}, false
	}
	return table[i], true
}

// Misplaced tells whether a port belongs to other protocols and not to this
// one: HTTP on port 443, say. On a port that is nobody's everything may run,
// and of a protocol without ports nothing can be said.
func Misplaced(name Protocol, port uint16) bool {
	own, ok := Lookup(name)
	if !ok || len(own.Ports) == 0 || slices.Contains(own.Ports, port) {
		return false
	}
	return slices.ContainsFunc(table[:], func(i Info) bool {
		return i.Transport&own.Transport != 0 && slices.Contains(i.Ports, port)
	})
}

// table is never written to.
var table = [...]Info{
	{HTTP, Web, OnTCP, false, []uint16{80, 3128, 8000, 8008, 8080, 8888, 591, 631, 5985}},
	{HTTP2, Web, OnTCP, false, []uint16{80, 8080, 50051}},
	{TLS, Web, OnTCP, true, []uint16{443, 465, 563, 636, 853, 989, 990, 992, 993, 994, 995, 2376, 3269, 5061, 5223, 5671, 5986, 6443, 6697, 8443, 8883, 9443}},
	{QUIC, Web, OnUDP, true, []uint16{443, 853, 8443}},
	{WebSocket, Web, InAnother, false, nil},
	{GRPC, Web, InAnother, false, nil},
	{ConnectUDP, Web, InAnother, false, nil},
	{DoH, Network, InAnother, false, nil},
	{AJP, Web, OnTCP, false, []uint16{8009}},

	{SMTP, Mail, OnTCP, false, []uint16{25, 587, 2525}},
	{IMAP, Mail, OnTCP, false, []uint16{143}},
	{POP3, Mail, OnTCP, false, []uint16{110}},
	{NNTP, Mail, OnTCP, false, []uint16{119}},

	{FTP, File, OnTCP, false, []uint16{21}},
	{TFTP, File, OnUDP, false, []uint16{69}},
	{SMB, File, OnTCP, false, []uint16{139, 445}},
	{NetBIOS, File, OnTCP | OnUDP, false, []uint16{137, 138, 139}},
	{Rsync, File, OnTCP, false, []uint16{873}},
	{Git, File, OnTCP, false, []uint16{9418}},
	{SVN, File, OnTCP, false, []uint16{3690}},
	{SunRPC, File, OnTCP | OnUDP, false, []uint16{111, 2049}},
	{ISCSI, File, OnTCP, false, []uint16{860, 3260}},

	{RTSP, Media, OnTCP, false, []uint16{554, 8554}},
	{RTP, Media, OnUDP, false, nil},
	{RTCP, Media, OnUDP, false, nil},
	{RTMP, Media, OnTCP, false, []uint16{1935}},
	{PNA, Media, OnTCP, false, []uint16{7070}},
	{RDT, Media, InAnother, false, nil},
	{MMS, Media, OnTCP, false, []uint16{1755}},
	{ICY, Media, OnTCP | InAnother, false, []uint16{8000}},
	{HLS, Media, InAnother, false, nil},
	{DASH, Media, InAnother, false, nil},
	{Smooth, Media, InAnother, false, nil},
	{Progressive, Media, InAnother, false, nil},

	{SIP, VoIP, OnTCP | OnUDP, false, []uint16{5060}},
	{H225, VoIP, OnTCP, false, []uint16{1720}},
	{H245, VoIP, OnTCP, false, nil},
	{RAS, VoIP, OnUDP, false, []uint16{1718, 1719}},
	{MGCP, VoIP, OnUDP, false, []uint16{2427, 2727}},
	{STUN, VoIP, OnTCP | OnUDP, false, []uint16{3478}},
	{DTLS, VoIP, OnUDP, true, nil},

	{IRC, Chat, OnTCP, false, []uint16{194, 6665, 6666, 6667, 6668, 6669}},
	{XMPP, Chat, OnTCP, false, []uint16{5222, 5269}},

	{PostgreSQL, Database, OnTCP, false, []uint16{5432}},
	{MySQL, Database, OnTCP, false, []uint16{3306}},
	{MSSQL, Database, OnTCP, false, []uint16{1433}},
	{Oracle, Database, OnTCP, false, []uint16{1521}},
	{MongoDB, Database, OnTCP, false, []uint16{27017}},
	{Redis, Database, OnTCP, false, []uint16{6379}},
	{Cassandra, Database, OnTCP, false, []uint16{9042}},
	{Memcached, Database, OnTCP, false, []uint16{11211}},

	{MQTT, Messaging, OnTCP, false, []uint16{1883}},
	{AMQP, Messaging, OnTCP, false, []uint16{5672}},
	{STOMP, Messaging, OnTCP, false, []uint16{61613}},
	{NATS, Messaging, OnTCP, false, []uint16{4222}},
	{Kafka, Messaging, OnTCP, false, []uint16{9092}},
	{FIX, Messaging, OnTCP, false, nil},
	{CoAP, Messaging, OnUDP, false, []uint16{5683}},
	{IIOP, Messaging, OnTCP, false, []uint16{683, 2809}},
	{DCERPC, Messaging, OnTCP, false, []uint16{135}},

	{SSH, Remote, OnTCP, true, []uint16{22}},
	{Telnet, Remote, OnTCP, false, []uint16{23}},
	{RDP, Remote, OnTCP | OnUDP, false, []uint16{3389}},
	{VNC, Remote, OnTCP, false, []uint16{5900, 5901, 5902, 5903}},
	{SPICE, Remote, OnTCP, false, nil},
	{X11, Remote, OnTCP, false, []uint16{6000, 6001}},
	{ICA, Remote, OnTCP, false, []uint16{1494, 2598}},

	{BitTorrent, P2P, OnTCP | OnUDP, false, []uint16{6881, 6882, 6883, 6969}},
	{EDonkey, P2P, OnTCP, false, []uint16{4662}},
	{Gnutella, P2P, OnTCP, false, []uint16{6346}},
	{Bitcoin, P2P, OnTCP, false, []uint16{8333}},

	{RMI, Java, OnTCP, false, []uint16{1099}},
	{JDWP, Java, OnTCP, false, nil},
	{JavaObjects, Java, OnTCP | InAnother, false, nil},
	{JavaClass, Java, OnTCP | InAnother, false, nil},
	{JavaArchive, Java, InAnother, false, nil},
	{JNLP, Java, InAnother, false, nil},

	{WireGuard, VPN, OnUDP, true, []uint16{51820}},
	{OpenVPN, VPN, OnTCP | OnUDP, true, []uint16{1194}},
	{IKE, VPN, OnUDP, true, []uint16{500, 4500}},
	{L2TP, VPN, OnUDP, false, []uint16{1701}},
	{PPTP, VPN, OnTCP, false, []uint16{1723}},
	{SOCKS, VPN, OnTCP, false, []uint16{1080}},

	{DNS, Network, OnTCP | OnUDP, false, []uint16{53, 5353, 5355}},
	{NTP, Network, OnUDP, false, []uint16{123}},
	{SNMP, Network, OnTCP | OnUDP, false, []uint16{161, 162}},
	{LDAP, Network, OnTCP | OnUDP, false, []uint16{389, 3268}},
	{Kerberos, Network, OnTCP | OnUDP, false, []uint16{88, 464}},
	{RADIUS, Network, OnUDP, false, []uint16{1645, 1646, 1812, 1813}},
	{DHCP, Network, OnUDP, false, []uint16{67, 68, 546, 547}},
	{SSDP, Network, OnUDP, false, []uint16{1900}},
	{Syslog, Network, OnTCP | OnUDP, false, []uint16{514}},
	{TPKT, Network, OnTCP, false, []uint16{102}},
}
