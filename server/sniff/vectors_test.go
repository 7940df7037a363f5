package sniff

import (
	"encoding/hex"
	"strings"
)

// vector is how a connection begins, and what is to be said of it.
type vector struct {
	name     string
	up, down string
	want     Verdict // without More
}

func unhex(s string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return string(b)
}

func certain(p Protocol) Verdict { return Verdict{Protocol: p, Certain: true} }

func with(v Verdict, change func(*Verdict)) Verdict {
	change(&v)
	return v
}

func host(p Protocol, name string) Verdict {
	return Verdict{Protocol: p, Certain: true, Host: name}
}

func carrying(p Protocol, name string, carries Protocol) Verdict {
	return Verdict{Protocol: p, Certain: true, Host: name, Carries: carries}
}

var smallHello = unhex("1603010055010000510303" + strings.Repeat("00", 32) +
	"000002130101000026" + "00000010000e00000b6578616d706c652e636f6d" + "0010000e000c02683208687474702f312e31")

var helloVerdict = Verdict{Protocol: TLS, Certain: true, Host: "example.com", ALPN: "h2,http/1.1"}

// inRecords cuts the payload of one record into several.
func inRecords(record string, sizes ...int) (records string) {
	payload := record[recordHeader:]
	for i := 0; payload != ""; i++ {
		n := min(len(payload), sizes[i%len(sizes)])
		records += record[:3] + string([]byte{byte(n >> 8), byte(n)}) + payload[:n]
		payload = payload[n:]
	}
	return records
}

var streamVectors = []vector{
	{"TLS", smallHello, "", helloVerdict},
	{"TLS in two records", inRecords(smallHello, 50), "", helloVerdict},
	{"TLS in records that cut the header of the message", inRecords(smallHello, 1, 2, 30), "", helloVerdict},
	{"TLS from the server alone", "", unhex("160303003a020000360303"), certain(TLS)},
	{"HTTP", "GET /a HTTP/1.1\r\nHost: Example.com:8080\r\nAccept: */*\r\n\r\n", "", host(HTTP, "example.com")},
	{"HTTP without carriage returns", "GET /a HTTP/1.0\nHost: example.com\n\n", "", host(HTTP, "example.com")},
	{"HTTP 0.9", "GET /\r\n\r\n", "", certain(HTTP)},
	{"HTTP to a proxy", "GET http://u:p@example.com:80/x HTTP/1.1\r\n\r\n", "", host(HTTP, "example.com")},
	{"HTTP OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", "", host(HTTP, "2001:db8::1")},
	{"HTTP with an unknown method", "BREW /pot HTTP/1.1\r\nHost: a.example\r\n\r\n", "", host(HTTP, "a.example")},
	{"HTTP with two hosts", "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n", "",
		with(host(HTTP, "a.example"), func(v *Verdict) { v.Doubt = "two Host fields that differ" })},
	{"HTTP answer alone", "", "HTTP/1.1 200 OK\r\n", certain(HTTP)},
	{"WebSocket", "GET /ws HTTP/1.1\r\nHost: w.example\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n", "",
		carrying(HTTP, "w.example", WebSocket)},
	{"connect-udp", "GET /m/u HTTP/1.1\r\nHost: w.example\r\nUpgrade: connect-udp\r\n\r\n", "", carrying(HTTP, "w.example", ConnectUDP)},
	{"RTMPT", "POST /fcs/ident2 HTTP/1.1\r\nHost: r.example\r\n\r\n", "", carrying(HTTP, "r.example", RTMP)},
	{"RTSP in HTTP", "GET /x HTTP/1.0\r\nHost: r.example\r\nAccept: application/x-rtsp-tunnelled\r\n\r\n", "", carrying(HTTP, "r.example", RTSP)},
	{"HTTP/2", prefaceOf2 + unhex("000000040000000000"), "", certain(HTTP2)},
	{"RTSP", "OPTIONS rtsp://cam.example:554/1 RTSP/1.0\r\nCSeq: 1\r\n\r\n", "", host(RTSP, "cam.example")},
	{"RTSP 2", "DESCRIBE rtsp://cam.example/1 RTSP/2.0\r\nCSeq: 1\r\n\r\n", "", host(RTSP, "cam.example")},
	{"RealMedia in RTSP", "OPTIONS rtsp://cam.example RTSP/1.0\r\nRealChallenge: abc\r\n\r\n", "", carrying(RTSP, "cam.example", RDT)},
	{"SIP", "OPTIONS sip:bob@sip.example;transport=tcp SIP/2.0\r\nVia: x\r\n\r\n", "", host(SIP, "sip.example")},
	{"SIP answer", "", "SIP/2.0 200 OK\r\n", certain(SIP)},
	{"ICY source", "SOURCE /live ICE/1.0\r\ncontent-type: audio/mpeg\r\n\r\n", "", certain(ICY)},
	{"SSH", "SSH-2.0-OpenSSH_9.6\r\n", "", certain(SSH)},
	{"SSH server", "", "SSH-1.99-x\r\n", certain(SSH)},
	{"DNS", unhex("001d123401000001000000000000076578616d706c6503636f6d0000010001"), "", certain(DNS)},
	{"STUN", unhex("000100002112a442000000000000000000000000"), "", certain(STUN)},
	{"STUN behind a length", unhex("0014000100002112a442000000000000000000000000"), "", certain(STUN)},
	{"MQTT 3.1.1", unhex("100d00044d5154540402003c000161"), "", certain(MQTT)},
	{"MQTT 5", unhex("100e00044d5154540502003c00000161"), "", certain(MQTT)},
	{"MQTT 3.1", unhex("100f00064d514973647003 02003c000161"), "", certain(MQTT)},
	{"PostgreSQL", unhex("00000012000300007573657200626f620000"), "", certain(PostgreSQL)},
	{"PostgreSQL 18", unhex("00000012000300027573657200626f620000"), "", certain(PostgreSQL)},
	{"PostgreSQL TLS", unhex("0000000804d2162f"), "", certain(PostgreSQL)},
	{"PostgreSQL GSS", unhex("0000000804d21630"), "", certain(PostgreSQL)},
	{"PostgreSQL cancel", unhex("0000001004d2162e0000000100000002"), "", certain(PostgreSQL)},
	{"RDP", unhex("030000130ee00000000000010008000b000000"), "", certain(RDP)},
	{"RDP with a cookie", unhex("030000 2b 26 e0000000000 0") + "Cookie: mstshash=eltons\r\n" + unhex("0100080000000000"), "", certain(RDP)},
	{"S7comm", unhex("0300001611e00000000100c1020100c2020102c0010a"), "", certain(TPKT)},
	{"H.225 SETUP", unhex("0300007e0802000105"), "", certain(H225)},
	{"H.245 TCS", unhex("0300001c0230010600088175000500"), "", certain(H245)},
	{"H.245 TCS as confirmed", unhex("0300001c 02 00 01 06 0008817500 0500"), "", certain(H245)},
	{"H.245 MSD", unhex("0300000b01003212345678"), "", certain(H245)},
	{"JRMI", unhex("4a524d4900024b"), "", certain(RMI)},
	{"JRMI 1", unhex("4a524d4900014c"), "", certain(RMI)},
	{"Java objects", unhex("aced0005737200"), "", certain(JavaObjects)},
	{"Java class", "", unhex("cafebabe0000003d"), certain(JavaClass)},
	{"JDWP", "JDWP-Handshake", "JDWP-Handshake", certain(JDWP)},
	{"GIOP", unhex("47494f5001020000000000d8"), "", certain(IIOP)},
	{"ZIOP", unhex("5a494f5001020000000000d8"), "", certain(IIOP)},
	{"RTMP", unhex("030000000000000000") + strings.Repeat("r", 1528), "", certain(RTMP)},
	{"RTMP of ffmpeg", unhex("030000000009007c02") + strings.Repeat("r", 1528), "", certain(RTMP)},
	{"RTMP with a time", unhex("030000123400000000") + strings.Repeat("r", 1528), "", certain(RTMP)},
	{"PNA", unhex("504e41000a001400020001"), "", certain(PNA)},
	{"MMS", unhex("01000000cefa0bb0a00000004d4d5320"), "", certain(MMS)},
	{"BitTorrent", "\x13BitTorrent protocol" + strings.Repeat("\x00", 48), "", certain(BitTorrent)},
	{"SMB 1", unhex("00000054ff534d4272"), "", certain(SMB)},
	{"SMB 2", unhex("00000054fe534d424000"), "", certain(SMB)},
	{"NetBIOS", unhex("8100004420"), "", certain(NetBIOS)},
	{"MySQL", "", unhex("4a0000000a") + "8.0.36\x00", certain(MySQL)},
	{"MariaDB", "", unhex("5a0000000a") + "5.5.5-10.11.6-MariaDB\x00", certain(MySQL)},
	{"MySQL refuses", "", unhex("17000000ff1004") + "Too many connections", certain(MySQL)},
	{"MongoDB", unhex("3a0000000100000000000000d4070000"), "", certain(MongoDB)},
	{"MongoDB 6", unhex("3a0000000100000000000000dd070000"), "", certain(MongoDB)},
	{"Redis", "*1\r\n$4\r\nPING\r\n", "", certain(Redis)},
	{"Cassandra", unhex("040000000500000000"), "", certain(Cassandra)},
	{"SQL Server", unhex("1201002f000001 00 00 001a 0006"), "", certain(MSSQL)},
	{"Oracle", unhex("00c6000001000000013601 2c"), "", certain(Oracle)},
	{"Memcached", "get key\r\n", "", certain(Memcached)},
	{"AMQP 0-9-1", unhex("414d515000000901"), "", certain(AMQP)},
	{"AMQP 1.0", unhex("414d515000010000"), "", certain(AMQP)},
	{"STOMP", "CONNECT\naccept-version:1.2\n\n\x00", "", certain(STOMP)},
	{"NATS", "", "INFO {\"server_id\":1}\r\n", certain(NATS)},
	{"Kafka", unhex("00000023001200030000 0001 0006"), "", certain(Kafka)},
	{"LDAP bind", unhex("300c020101600702010304008000"), "", certain(LDAP)},
	{"LDAP search", unhex("30840000002d02010163840000002404"), "", certain(LDAP)},
	{"SNMP on TCP", unhex("302902010104067075626c6963a11c"), "", certain(SNMP)},
	{"Kerberos", unhex("0000001f 6a1d 301b a103020105 a20302010a a40f300d"), "", certain(Kerberos)},
	{"SOCKS 5", unhex("050100"), "", certain(SOCKS)},
	{"SOCKS 4", unhex("040100507f000001") + "bob\x00", "", certain(SOCKS)},
	{"VNC", "", "RFB 003.008\n", certain(VNC)},
	{"rsync", "", "@RSYNCD: 31.0\n", certain(Rsync)},
	{"telnet", "", unhex("fffd18fffd20"), certain(Telnet)},
	{"git", "0033git-upload-pack /project.git\x00host=git.example:9\x00", "", host(Git, "git.example")},
	{"SVN", "", "( success ( 2 2 ( ) ( edit-pipeline ) ) )", certain(SVN)},
	{"XMPP", "<?xml version='1.0'?><stream:stream to='x.example' xmlns='jabber:client'>", "", host(XMPP, "x.example")},
	{"XMPP without declaration", "<stream:stream xmlns=\"jabber:client\" to=\"x.example\">", "", host(XMPP, "x.example")},
	{"IRC", "NICK bob\r\nUSER bob 0 * :Bob\r\n", "", certain(IRC)},
	{"IRC CAP", "CAP LS 302\r\n", "", certain(IRC)},
	{"IRC server", "", ":irc.example NOTICE * :*** Looking up\r\n", certain(IRC)},
	{"SMTP", "", "220 mx.example ESMTP Postfix\r\n", certain(SMTP)},
	{"SMTP that does not say so", "EHLO a.example\r\n", "220 mx.example ready\r\n", certain(SMTP)},
	{"FTP", "", "220 (vsFTPd 3.0.5)\r\n", certain(FTP)},
	{"FTP that does not say so", "USER bob\r\n", "220 ready\r\n", certain(FTP)},
	{"IMAP", "", "* OK [CAPABILITY IMAP4rev1] ready\r\n", certain(IMAP)},
	{"IMAP client", "a1 CAPABILITY\r\n", "", certain(IMAP)},
	{"POP3", "", "+OK ready\r\n", certain(POP3)},
	{"NNTP", "", "200 news.example InterNetNews ready\r\n", certain(NNTP)},
	{"NNTP that does not say so", "MODE READER\r\n", "201 hello\r\n", certain(NNTP)},
	{"X11", unhex("6c000b00000000000000"), "", certain(X11)},
	{"PPTP", unhex("009c00011a2b3c4d0001"), "", certain(PPTP)},
	{"Sun RPC", unhex("800000281234567800000000000000020001"), "", certain(SunRPC)},
	{"DCE RPC", unhex("05000b03100000004800"), "", certain(DCERPC)},
	{"OpenVPN", unhex("000e38") + "abcdefgh" + unhex("0000000000"), "", certain(OpenVPN)},
	{"ICA", "", unhex("7f7f49434100"), certain(ICA)},
	{"Bitcoin", unhex("f9beb4d976657273696f6e0000000000"), "", certain(Bitcoin)},
	{"FIX", "8=FIX.4.4\x019=5\x01", "", certain(FIX)},
	{"AJP", unhex("123400a20202"), "", certain(AJP)},
	{"SPICE", "REDQ\x02\x00\x00\x00", "", certain(SPICE)},
	{"Gnutella", "GNUTELLA CONNECT/0.6\r\n", "", certain(Gnutella)},
	{"eDonkey", unhex("e33d0000000110"), "", certain(EDonkey)},
	{"iSCSI", unhex("43870000"), "", certain(ISCSI)},
	{"syslog", "<34>1 2003-10-11T22:14:15.003Z host su - - x\n", "", certain(Syslog)},
}
