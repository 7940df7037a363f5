package wglink

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for.
const patience = 20 * time.Second

var (
	near4, far4 = tcpip.AddrFrom4([4]byte{10, 0, 0, 1}), tcpip.AddrFrom4([4]byte{10, 0, 0, 2})
	near6, far6 = tcpip.AddrFrom16([16]byte{0: 0xfd, 15: 1}), tcpip.AddrFrom16([16]byte{0: 0xfd, 15: 2})
)

func randomBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// outgoing is a TCP segment as the stack hands it to its interface: the
// checksum is left to that.
func outgoing(version int, payload []byte, mss int, flags header.TCPFlags) *stack.PacketBuffer {
	var body buffer.Buffer
	for rest := payload; len(rest) > 0; { // in pieces, as applications write
		n := min(len(rest), 1+rand.IntN(5000))
		_ = body.Append(buffer.NewViewWithData(rest[:n]))
		rest = rest[n:]
	}
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: 100, Payload: body})
	p.GSOOptions = stack.GSO{Type: stack.GSOTCPv6, NeedsCsum: true, MSS: uint16(mss)}
	options := []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}
	tcp := header.TCP(p.TransportHeader().Push(header.TCPMinimumSize + len(options)))
	tcp.Encode(&header.TCPFields{
		SrcPort: 1000, DstPort: 2000, SeqNum: 0xffffff00, AckNum: 7, Flags: flags, WindowSize: 500,
		DataOffset: uint8(header.TCPMinimumSize + len(options)),
	})
	copy(tcp[header.TCPMinimumSize:], options)
	length := uint16(len(tcp) + len(payload))
	if version == 4 {
		ip := header.IPv4(p.NetworkHeader().Push(header.IPv4MinimumSize))
		ip.Encode(&header.IPv4Fields{TotalLength: length + header.IPv4MinimumSize, ID: 0xffff, TTL: 64, Protocol: 6, SrcAddr: near4, DstAddr: far4})
		ip.SetChecksum(^ip.CalculateChecksum())
	} else {
		ip := header.IPv6(p.NetworkHeader().Push(header.IPv6MinimumSize))
		ip.Encode(&header.IPv6Fields{PayloadLength: length, TransportProtocol: 6, HopLimit: 64, SrcAddr: near6, DstAddr: far6})
	}
	return p
}

// cutUp gives the packets that a knife makes of what the stack sends.
func cutUp(p *stack.PacketBuffer) (packets [][]byte) {
	var k knife
	for k.lay(p, newSizes(1<<16)); !k.idle(); {
		b := make([]byte, 1<<16)
		packets = append(packets, b[:k.cut(b)])
	}
	return packets
}

// segment is a whole packet's TCP segment. The test fails if its checksums or
// its lengths are wrong.
func segment(t *testing.T, b []byte) (tcp header.TCP, payload []byte) {
	t.Helper()
	src, dst, at, ok := near6, far6, header.IPv6MinimumSize, false
	if b[0]>>4 == 4 {
		ip := header.IPv4(b)
		src, dst, at = near4, far4, header.IPv4MinimumSize
		ok = ip.IsValid(len(b)) && ip.IsChecksumValid() && int(ip.TotalLength()) == len(b)
	} else {
		ok = header.IPv6(b).IsValid(len(b)) && int(header.IPv6(b).PayloadLength())+at == len(b)
	}
	if !ok {
		t.Fatal("the IP header is wrong")
	}
	tcp = header.TCP(b[at:])
	payload = tcp.Payload()
	if !tcp.IsChecksumValid(src, dst, checksum.Checksum(payload, 0), uint16(len(payload))) {
		t.Fatal("the TCP checksum is wrong")
	}
	return tcp, payload
}

func TestWhatIsCutIsJoinedAgain(t *testing.T) {
	const mss = 1348
	for range 300 {
		for _, version := range []int{4, 6} {
			want := randomBytes(1 + rand.IntN(60_000))
			packets := cutUp(outgoing(version, want, mss, header.TCPFlagAck|header.TCPFlagPsh))
			if n := (len(want) + mss - 1) / mss; len(packets) != n {
				t.Fatalf("%d packets of %d bytes, want %d", len(packets), len(want), n)
			}
			next := uint32(0xffffff00)
			for i, b := range packets {
				tcp, payload := segment(t, b)
				if tcp.SequenceNumber() != next || len(payload) > mss || tcp.Flags().Contains(header.TCPFlagPsh) != (i == len(packets)-1) {
					t.Fatalf("packet %d is wrong: %v", i, tcp)
				}
				next += uint32(len(payload))
			}
			got, protocol, n := join(packets, 0)
			if got == nil || n != len(packets) || (protocol == header.IPv4ProtocolNumber) != (version == 4) {
				t.Fatalf("%d of %d packets were joined", n, len(packets))
			}
			tcp, payload := segment(t, got.ToView().AsSlice())
			if !bytes.Equal(payload, want) || tcp.SequenceNumber() != 0xffffff00 || tcp.Flags() != header.TCPFlagAck|header.TCPFlagPsh {
				t.Fatalf("other bytes came back: %v", tcp)
			}
			got.DecRef()
		}
	}
}

func TestOnlyWhatGoesOnIsJoined(t *testing.T) {
	change := map[string]func(b []byte, tcp header.TCP){
		"another port":            func(_ []byte, tcp header.TCP) { tcp.SetDestinationPort(1) },
		"another source":          func(b []byte, _ header.TCP) { header.IPv6(b).SetSourceAddress(far6) },
		"another traffic class":   func(b []byte, _ header.TCP) { header.IPv6(b).SetTOS(1, 0) },
		"a gap":                   func(_ []byte, tcp header.TCP) { tcp.SetSequenceNumber(tcp.SequenceNumber() + 1) },
		"another acknowledgement": func(_ []byte, tcp header.TCP) { tcp.SetAckNumber(8) },
		"another window":          func(_ []byte, tcp header.TCP) { tcp.SetWindowSize(501) },
		"another option":          func(_ []byte, tcp header.TCP) { tcp[header.TCPMinimumSize+7]++ },
		"urgent":                  func(_ []byte, tcp header.TCP) { tcp.SetUrgentPointer(1) },
		"a reset":                 func(_ []byte, tcp header.TCP) { tcp.SetFlags(uint8(header.TCPFlagAck | header.TCPFlagRst)) },
		"an end":                  func(_ []byte, tcp header.TCP) { tcp.SetFlags(uint8(header.TCPFlagAck | header.TCPFlagFin)) },
		"another protocol":        func(b []byte, _ header.TCP) { header.IPv6(b).SetNextHeader(17) },
	}
	for what, f := range change {
		packets := cutUp(outgoing(6, randomBytes(3*1000), 1000, header.TCPFlagAck))
		f(packets[1], header.TCP(packets[1][header.IPv6MinimumSize:]))
		p, _, n := join(packets, 0)
		if n != 1 || !bytes.Equal(p.ToView().AsSlice(), packets[0]) {
			t.Errorf("%s: %d packets were joined", what, n)
		}
		p.DecRef()
	}
}

// The stack finds out by the checksum of the whole.
func TestDamageToAPartShowsInTheWhole(t *testing.T) {
	for _, version := range []int{4, 6} {
		for range 100 {
			packets := cutUp(outgoing(version, randomBytes(10_000), 1348, header.TCPFlagAck))
			b := packets[rand.IntN(len(packets)-1)]
			b[len(b)-1-rand.IntN(1000)] ^= 1 << rand.IntN(8)
			p, _, n := join(packets, 0)
			if n != len(packets) {
				t.Fatal("not joined")
			}
			whole := p.ToView().AsSlice()
			tcp, src, dst := header.TCP(whole[header.IPv6MinimumSize:]), near6, far6
			if version == 4 {
				tcp, src, dst = header.TCP(whole[header.IPv4MinimumSize:]), near4, far4
			}
			if tcp.IsChecksumValid(src, dst, checksum.Checksum(tcp.Payload(), 0), uint16(len(tcp.Payload()))) {
				t.Fatal("the damage is gone")
			}
			p.DecRef()
		}
	}
}

func FuzzJoinLosesNothing(f *testing.F) {
	for _, version := range []int{4, 6} {
		for _, b := range cutUp(outgoing(version, randomBytes(100), 40, header.TCPFlagAck)) {
			f.Add(b, b)
		}
	}
	f.Add([]byte{}, []byte{0x45})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		for rest := [][]byte{a, b, a}; len(rest) > 0; {
			p, _, n := join(rest, 0)
			if n < 1 || n > len(rest) {
				t.Fatalf("%d of %d were used", n, len(rest))
			}
			if p != nil {
				whole, last := p.ToView().AsSlice(), rest[n-1]
				if n == 1 && !bytes.Equal(whole, last) || n > 1 && !bytes.HasSuffix(whole, last[len(last)-1:]) {
					t.Fatal("other bytes came out")
				}
				p.DecRef()
			}
			rest = rest[n:]
		}
	})
}

func TestFullCableMakesSendersWait(t *testing.T) {
	c := newCable(1420, newCounter(), clientInside)
	defer c.shut()
	sent := make(chan int)
	var sender sync.WaitGroup
	defer sender.Wait()
	sender.Go(func() {
		defer close(sent)
		for range 100 {
			var list stack.PacketBufferList
			p := outgoing(6, make([]byte, 20_000), 1348, header.TCPFlagAck)
			list.PushBack(p)
			if n, err := c.WritePackets(list); n != 1 || err != nil {
				t.Errorf("WritePackets gives %d, %v", n, err)
			}
			p.DecRef()
			sent <- 1
		}
	})
	// Until the first has to wait, and then one more.
	for range cableBytes/(20_000+72+packetCost) + 1 { // 72 bytes of headers
		<-sent
	}
	select {
	case <-sent:
		t.Error("the cable took more than it may hold")
	case <-time.After(50 * time.Millisecond): // it may be slow to do so, never wrong
	}
	bufs, sizes := make([][]byte, batch), make([]int, batch)
	for i := range bufs {
		bufs[i] = make([]byte, 2000)
	}
	sender.Go(func() {
		for range sent {
		}
	})
	got := 0
	for got < 100*15 { // 20,000 bytes are 15 packets
		n, err := c.Read(bufs, sizes, 16)
		if err != nil {
			t.Fatal(err)
		}
		got += n
		c.out.out.add(n)
	}
	if got != 100*15 {
		t.Errorf("%d packets came out", got)
	}
}

func TestDatagramsTakeNobodysRoomInTheCable(t *testing.T) {
	c := newCable(1420, newCounter(), clientInside)
	defer c.shut()
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(make([]byte, 100))})
	defer p.DecRef()
	offered := 0
	for c.offer(p) {
		offered++
	}
	if want := cableBytes/(100+packetCost) + 1; offered != want {
		t.Errorf("%d packets wait, want %d", offered, want)
	}
	// A segment does not have to wait for them. If it did it would for good.
	var list stack.PacketBufferList
	segment := outgoing(6, make([]byte, 1000), 1348, header.TCPFlagAck)
	defer segment.DecRef()
	list.PushBack(segment)
	if n, err := c.WritePackets(list); n != 1 || err != nil {
		t.Errorf("WritePackets gives %d, %v", n, err)
	}
}

func TestShutCableFreesWhoeverWaits(t *testing.T) {
	c := newCable(1420, newCounter(), clientInside)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		for {
			var list stack.PacketBufferList
			p := outgoing(6, make([]byte, 20_000), 1348, header.TCPFlagAck)
			list.PushBack(p)
			_, err := c.WritePackets(list)
			p.DecRef()
			if err != nil {
				return
			}
		}
	})
	empty := newCable(1420, newCounter(), clientInside)
	waiting.Go(func() {
		if _, err := empty.Read([][]byte{make([]byte, 2000)}, make([]int, 1), 0); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Read gives %v", err)
		}
	})
	time.AfterFunc(10*time.Millisecond, func() {
		for range 2 {
			c.shut()
			empty.shut()
		}
	})
	waiting.Wait()
	if _, err := c.Write([][]byte{make([]byte, 100)}, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Write gives %v", err)
	}
}
