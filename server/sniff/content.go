package sniff

import (
	"bytes"
	"strconv"
)

// byPath tells by the path of a request what it probably asks for.
func byPath(path []byte) Protocol {
	path, _, _ = bytes.Cut(path, []byte("?"))
	switch {
	case bytes.HasSuffix(path, []byte(".m3u8")):
		return HLS
	case bytes.HasSuffix(path, []byte(".mpd")), bytes.HasSuffix(path, []byte(".m4s")):
		return DASH
	case bytes.HasSuffix(path, []byte(".ism/Manifest")), bytes.Contains(path, []byte(".ism/QualityLevels(")):
		return Smooth
	case bytes.HasSuffix(path, []byte(".jnlp")):
		return JNLP
	case bytes.HasSuffix(path, []byte(".jar")):
		return JavaArchive
	case bytes.HasSuffix(path, []byte(".class")):
		return JavaClass
	case string(path) == "/fcs/ident2", string(path) == "/open/1":
		return RTMP // through HTTP
	}
	return ""
}

// byField tells by a header field, of a request or its answer, what is carried.
func byField(name, value []byte) Protocol {
	switch {
	case equalFold(name, "upgrade"):
		word := upper(value)
		switch {
		case word == "WEBSOCKET":
			return WebSocket
		case word == "CONNECT-UDP":
			return ConnectUDP
		}
	case equalFold(name, "icy-metaint"), equalFold(name, "icy-metadata"), equalFold(name, "icy-name"), equalFold(name, "ice-name"):
		return ICY
	case equalFold(name, "content-type"), equalFold(name, "accept"):
		kind, _, _ := bytes.Cut(value, []byte(";"))
		return byType(bytes.TrimSpace(kind))
	}
	return ""
}

// byType tells what a media type stands for.
func byType(kind []byte) Protocol {
	var lower [48]byte
	n := copy(lower[:], kind)
	for i, c := range lower[:n] {
		if 'A' <= c && c <= 'Z' {
			lower[i] = c - 'A' + 'a'
		}
	}
	switch string(lower[:n]) {
	case "application/vnd.apple.mpegurl", "application/x-mpegurl", "audio/mpegurl", "audio/x-mpegurl":
		return HLS
	case "application/dash+xml", "video/iso.segment", "audio/iso.segment":
		return DASH
	case "application/vnd.ms-sstr+xml":
		return Smooth
	case "application/x-rtsp-tunnelled":
		return RTSP
	case "application/x-fcs":
		return RTMP
	case "application/x-java-jnlp-file":
		return JNLP
	case "application/java-archive", "application/x-java-archive":
		return JavaArchive
	case "application/java-vm", "application/x-java-vm", "application/x-java-class":
		return JavaClass
	case "application/x-java-serialized-object":
		return JavaObjects
	case "application/dns-message":
		return DoH
	case "application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text":
		return GRPC
	}
	return ""
}

// isMedia tells whether a media type is one that is played while it comes.
func isMedia(kind []byte) bool {
	kind = bytes.ToLower(kind)
	return bytes.HasPrefix(kind, []byte("video/")) || bytes.HasPrefix(kind, []byte("audio/"))
}

// bodies are the beginnings of what is recognised whatever its type is said to be.
var bodies = [...]struct {
	magic   string
	carries Protocol
}{
	{"#EXTM3U", HLS},
	{"\xca\xfe\xba\xbe\x00\x00\x00", JavaClass},
	{"\xca\xfe\xba\xbe\x00\x03\x00", JavaClass},
	{"\xac\xed\x00\x05", JavaObjects},
	{"<jnlp", JNLP},
	{"<MPD", DASH},
	{"PK\x03\x04??????????????????????????META-INF/", JavaArchive}, // its first entry
}

// byBody tells by how a body begins what it is, and whether that may yet change.
func byBody(b []byte) (carries Protocol, open bool) {
	for i := range bodies {
		switch begins(b, bodies[i].magic) {
		case sure:
			return bodies[i].carries, false
		case perhaps:
			open = true
		}
	}
	return "", open
}

// answerHead is what is read of the head of an answer.
type answerHead struct {
	status  int // 0 if it is none
	length  int // of the body, -1 if it is not said
	carries Protocol
	media   bool
}

func readAnswer(h head) answerHead {
	a := answerHead{length: -1}
	line := h.line()
	if begins(line, "HTTP/1.") != sure && begins(line, "ICY ") != sure {
		return a
	}
	a.status, _ = strconv.Atoi(string(target(line)))
	if line[0] == 'I' {
		a.carries = ICY
	}
	fields(h.b[:max(h.eoh, h.eol)], func(name, value []byte) {
		if equalFold(name, "content-length") {
			if n, err := strconv.Atoi(string(value)); err == nil && n >= 0 {
				a.length = n
			}
			return
		}
		if c := byField(name, value); c != "" && a.carries != ICY {
			a.carries = c
		}
		if equalFold(name, "content-type") && isMedia(value) {
			a.media = true
		}
	})
	if a.carries == "" && a.media {
		a.carries = Progressive
	}
	return a
}
