package sniff

// sign is a string that proves a protocol. A question mark stands for any byte.
type sign struct {
	magic    string
	protocol Protocol
}

// signs are those that begin with something of their own. None of them is the
// beginning of another.
var signs = [...]sign{
	{"\x13BitTorrent protocol", BitTorrent},
	{"JRMI\x00\x01", RMI},
	{"JRMI\x00\x02", RMI},
	{"JDWP-Handshake", JDWP},
	{"\xac\xed\x00\x05", JavaObjects},
	{"\xca\xfe\xba\xbe\x00\x00\x00", JavaClass},
	{"\xca\xfe\xba\xbe\x00\x03\x00", JavaClass}, // of JDK 1.1
	{"GIOP\x01", IIOP},
	{"ZIOP\x01", IIOP},
	{"PNA\x00", PNA},
	{"RFB 003.", VNC},
	{"RFB 004.", VNC},
	{"@RSYNCD: ", Rsync},
	{"SSH-1.", SSH},
	{"SSH-2.", SSH},
	{"REDQ", SPICE},
	{"\x7f\x7fICA\x00", ICA},
	{"GNUTELLA CONNECT/", Gnutella},
	{"GNUTELLA/0.", Gnutella},
	{"\xf9\xbe\xb4\xd9version\x00", Bitcoin},
	{"\xe3????\x01\x10", EDonkey},
	{"8=FIX", FIX},
	{"AMQP\x00\x00\x09\x01", AMQP},
	{"AMQP\x00\x01\x00\x00", AMQP},
	{"AMQP\x02\x01\x00\x00", AMQP}, // TLS is asked for
	{"AMQP\x03\x01\x00\x00", AMQP}, // SASL
	{"AMQP\x01\x01", AMQP},         // 0-9 and older
	{"STOMP\n", STOMP},
	{"STOMP\r\n", STOMP},
	{"CONNECT\n", STOMP},
	{"CONNECT\r\n", STOMP},
	{"INFO {", NATS},
	{"CONNECT {", NATS},
	{"( success ( ", SVN},
	{"\x12\x34\x00??\x02", AJP}, // a request to forward
	{"\x12\x34\x00\x01\x0a", AJP},
	{"\x05\x00\x0b?\x10\x00\x00\x00", DCERPC}, // bind, little endian
	{"l\x00\x0b\x00\x00\x00", X11},
	{"B\x00\x00\x0b\x00\x00", X11},
	{"\x80\x00??????\x00\x00\x00\x00\x00\x00\x00\x02", SunRPC}, // a call
	{"\x12\x01??\x00\x00?\x00\x00", MSSQL},                     // PRELOGIN
	{"\x10\x01??\x00\x00?\x00", MSSQL},                         // LOGIN7
	{"\x00\x0e\x38????????\x00\x00\x00\x00\x00", OpenVPN},      // a reset without a key for it
	{"\x00???\xffSMB", SMB},
	{"\x00???\xfeSMB", SMB},
	{"\x00???\xfdSMB", SMB}, // encrypted
	{"\x81\x00\x00\x44\x20", NetBIOS},
	{"\x00\x01??\x21\x12\xa4\x42", STUN},
	{"\x00\x03??\x21\x12\xa4\x42", STUN},
	{"\x00?\x00\x01??\x21\x12\xa4\x42", STUN},     // behind its length, RFC 4571
	{"\x04\x00??\x05\x00\x00\x00\x00", Cassandra}, // OPTIONS
	{"\x05\x00??\x05\x00\x00\x00\x00", Cassandra},
	{"\x04\x00??\x01\x00\x00\x00?\x00?\x00\x0bCQL", Cassandra},
	{"\x05\x00??\x01\x00\x00\x00?\x00?\x00\x0bCQL", Cassandra},
	{"\x43\x87\x00\x00", ISCSI}, // log-in
	{"\x43\x81\x00\x00", ISCSI},
}

// lateSigns have their own bytes far from the beginning. They are looked for
// last, for until these are here they exclude nothing.
var lateSigns = [...]sign{
	{"??\x00\x01\x1a\x2b\x3c\x4d", PPTP},
	{"??\x00\x00\x01\x00\x00\x00\x01", Oracle},
	{"????\xce\xfa\x0b\xb0????MMS ", MMS},
	{"????????\x00\x00\x00\x00\xdd\x07\x00\x00", MongoDB}, // OP_MSG
	{"????????\x00\x00\x00\x00\xd4\x07\x00\x00", MongoDB}, // OP_QUERY
	{"\x00\x00??\x00\x12\x00?\x00\x00", Kafka},            // ApiVersions
}

// signsBy are the signs by their first byte, which is never a question mark: each flow asks for
// them twice.
var signsBy = byFirstByte(signs[:])

func byFirstByte(signs []sign) (by [256][]sign) {
	for _, s := range signs {
		first := s.magic[0]
		by[first] = append(by[first], s)
	}
	return by
}

func signature(h head) answer {
	if len(h.b) == 0 {
		return oneOf(signs[:], h.b)
	}
	return oneOf(signsBy[h.b[0]], h.b)
}

func lateSignature(h head) answer { return oneOf(lateSigns[:], h.b) }

func oneOf(signs []sign, b []byte) answer {
	need := 0
	for i := range signs {
		switch s := &signs[i]; begins(b, s.magic) {
		case sure:
			return is(s.protocol)
		case perhaps:
			if need == 0 || len(s.magic) < need {
				need = len(s.magic)
			}
		}
	}
	if need == 0 {
		return no()
	}
	return want(need)
}
