package netwatch

import (
	"bytes"
	"encoding/binary"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzEssence reads answers as the kernel would not send them.
func FuzzEssence(f *testing.F) {
	for _, what := range []int{unix.RTM_GETLINK, unix.RTM_GETADDR, unix.RTM_GETROUTE, unix.RTM_GETRULE} {
		answer, err := syscall.NetlinkRIB(what, unix.AF_UNSPEC)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(answer)
		f.Add(answer[:len(answer)/2])
		f.Add(bytes.Repeat(answer[:min(len(answer), unix.NLMSG_HDRLEN)], 2))
	}
	counter := binary.NativeEndian.AppendUint16(nil, 8)
	counter = binary.NativeEndian.AppendUint16(counter, attributeType)
	counter = append(counter, "1234"...)
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		for kind, body := range messages(b) {
			total += unix.NLMSG_HDRLEN + len(body)
			e := essence(kind, body)
			_ = verdict(body)
			if e == nil || kind == unix.RTM_NEWRULE || !wellFormed(kind, body) {
				continue
			}
			// Whatever else the kernel tells of a thing, it is the same thing.
			if more := essence(kind, append(bytes.Clone(body), counter...)); !bytes.Equal(e, more) {
				t.Errorf("%x has the essence %x, and with a counter %x", body, e, more)
			}
		}
		if total > len(b) {
			t.Errorf("%d bytes of messages in %d bytes", total, len(b))
		}
	})
}

// wellFormed tells whether a body's attributes fill it to the last byte.
func wellFormed(kind uint16, body []byte) bool {
	head := map[uint16]int{unix.RTM_NEWLINK: unix.SizeofIfInfomsg, unix.RTM_NEWADDR: unix.SizeofIfAddrmsg, unix.RTM_NEWROUTE: unix.SizeofRtMsg}[kind]
	if len(body) != aligned(len(body)) {
		return false
	}
	total := head
	for _, value := range attributes(body[head:]) {
		total += aligned(unix.SizeofRtAttr + len(value))
	}
	return total == len(body)
}
