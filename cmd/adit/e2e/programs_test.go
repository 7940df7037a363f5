//go:build linux

package e2e

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a program can ask the door for.
var (
	ip4Only   = []string{target4}
	ipOnly    = []string{target4, target6}
	namesOnly = []string{targetName, targetName4, targetName6}
	anyHost   = []string{target4, target6, targetName, targetName4, targetName6}
)

// checkGreeting looks whether the target's first page says that the server asked
// for it.
func checkGreeting(t *testing.T, page string) {
	t.Helper()
	if page != "you come from "+exit4+"\n" && page != "you come from "+exit6+"\n" {
		t.Errorf("the target says %q", page)
	}
}

// urlHost is host as it stands in a URL.
func urlHost(host string) string { return strings.TrimSuffix(net.JoinHostPort(host, ""), ":") }

// randomText is n characters that nothing can compress, guess or mistake.
func randomText(n int) string {
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(rand.Text())
		b.WriteByte('\n')
	}
	return b.String()[:n]
}

func TestCurlFetchesThroughEveryKindOfProxyItKnows(t *testing.T) {
	t.Parallel()
	for _, door := range []string{door4, door6} {
		for _, test := range []struct {
			proxy []string
			hosts []string
		}{
			{[]string{"--socks4", door}, ip4Only},
			{[]string{"--socks4a", door}, namesOnly},
			{[]string{"--socks5", door}, ipOnly},
			{[]string{"--socks5-hostname", door}, anyHost},
			{[]string{"--proxy", "http://" + door}, anyHost},
		} {
			for _, host := range test.hosts {
				for _, scheme := range []string{"http", "https"} {
					url := scheme + "://" + urlHost(host) + "/"
					t.Run(strings.Join(test.proxy, " ")+" "+url, func(t *testing.T) {
						args := append(test.proxy, "--noproxy", "", "--cacert", shared.site.caFile, "-sS", "--fail", url)
						checkGreeting(t, onClient(t, "", "curl", args...))
					})
				}
			}
		}
	}
}

func TestCurlSendsAndReceivesEveryByte(t *testing.T) {
	t.Parallel()
	data := randomText(8 << 20)
	for _, proxy := range []string{"socks4a://" + door4, "socks5h://" + door6, "http://" + door4} {
		for _, scheme := range []string{"http", "https"} {
			t.Run(proxy+" "+scheme, func(t *testing.T) {
				echo := onClient(t, data, "curl", "--proxy", proxy, "--noproxy", "", "--cacert", shared.site.caFile,
					"-sS", "--fail", "-H", "Expect:", "--data-binary", "@-", scheme+"://"+targetName+"/echo")
				if echo != data {
					t.Errorf("%d bytes came back, not the %d that were sent, or others", len(echo), len(data))
				}
			})
		}
	}
}

func TestNcatHalfClosesAndStillGetsTheAnswer(t *testing.T) {
	t.Parallel()
	data := randomText(1 << 20)
	for _, test := range []struct {
		kind, door string
		hosts      []string
	}{
		{"socks4", door4, ip4Only},
		{"socks5", door6, anyHost},
		{"http", door4, anyHost},
	} {
		for _, host := range test.hosts {
			t.Run(test.kind+" "+host, func(t *testing.T) {
				answer := onClient(t, data, "ncat", "--proxy", test.door, "--proxy-type", test.kind, "--proxy-dns", "remote", host, digestPort)
				if answer != digest(data)+"\n" {
					t.Errorf("the target answers %q, not the digest of what was sent", answer)
				}
			})
		}
	}
}

func TestProxychainsForcesAProgramThrough(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		kind  string
		hosts []string
	}{
		{"socks4", ip4Only},
		{"socks5", []string{target4, targetName, targetName4, targetName6}},
		{"http", []string{target4, targetName}},
	} {
		config := filepath.Join(t.TempDir(), "proxychains.conf")
		host, port, _ := net.SplitHostPort(door4)
		text := fmt.Sprintf("strict_chain\nproxy_dns\n[ProxyList]\n%s %s %s\n", test.kind, host, port)
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, host := range test.hosts {
			t.Run(test.kind+" "+host, func(t *testing.T) {
				checkGreeting(t, onClient(t, "", "proxychains4", "-q", "-f", config, "curl", "-4", "-sS", "--fail", "http://"+host+"/"))
			})
		}
	}
}

// pySocks makes a library that knows nothing of SOCKS use the sockets of PySocks.
const pySocks = `
import socket, socks, sys, urllib.request
kind, host, port, url = sys.argv[1:]
socks.set_default_proxy(getattr(socks, kind), host, int(port), rdns=True)
def connect(address, *args, **options):
    s = socks.socksocket()
    s.connect(address)  # a name stays a name
    return s
socket.create_connection = connect
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
sys.stdout.write(opener.open(url, timeout=30).read().decode())
`

func TestPythonWithPySocksFetches(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		kind, door string
		hosts      []string
	}{
		{"SOCKS4", door4, []string{target4, targetName}}, // with a name: SOCKS 4a
		{"SOCKS5", door4, anyHost},
		{"HTTP", door4, []string{target4, targetName}},
	} {
		host, port, _ := net.SplitHostPort(test.door)
		for _, target := range test.hosts {
			t.Run(test.kind+" "+target, func(t *testing.T) {
				checkGreeting(t, onClient(t, "", "/usr/bin/python3", "-c", pySocks, test.kind, host, port, "http://"+urlHost(target)+"/"))
			})
		}
	}
}

func TestClientHasNoWayToTheTargetButTheTunnel(t *testing.T) {
	t.Parallel()
	for _, host := range anyHost[:2] {
		out, err := tryOnClient(t, "", "curl", "--noproxy", "*", "-sS", "--max-time", "5", "http://"+urlHost(host)+"/")
		if err == nil {
			t.Errorf("curl reached %s without a proxy and got %q: the other tests prove nothing", host, out)
		}
	}
}
