//go:build linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write makes a file of the test's own.
func write(t *testing.T, name, text string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestTsocksForcesAProgramThrough(t *testing.T) {
	t.Parallel()
	host, port, _ := net.SplitHostPort(door4)
	for _, kind := range []string{"4", "5"} {
		t.Run("SOCKS "+kind, func(t *testing.T) {
			config := write(t, "tsocks.conf", fmt.Sprintf("server = %s\nserver_port = %s\nserver_type = %s\n", host, port, kind))
			checkGreeting(t, onClient(t, "", "env", "TSOCKS_CONF_FILE="+config, "tsocks", "curl", "-sS", "--fail", "http://"+target4+"/"))
		})
	}
}

// TestTorsocksForcesAProgramThrough has it look up names, too, by Tor's extension of
// SOCKS.
func TestTorsocksForcesAProgramThrough(t *testing.T) {
	t.Parallel()
	host, port, _ := net.SplitHostPort(door4)
	config := write(t, "torsocks.conf", fmt.Sprintf("TorAddress %s\nTorPort %s\n", host, port))
	for _, target := range []string{target4, targetName, targetName4} {
		t.Run(target, func(t *testing.T) {
			checkGreeting(t, onClient(t, "", "env", "TORSOCKS_CONF_FILE="+config, "torsocks", "curl", "-sS", "--fail", "http://"+target+"/"))
		})
	}
}

func TestTorResolveLooksUpNamesAndAddresses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"-4", targetName4}, target4},
		{[]string{"-5", targetName4}, target4},
		{[]string{"-5", targetName6}, target6},
		{[]string{"-5", "-x", target4}, targetName},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			got := onClient(t, "", "tor-resolve", append(test.args, door4)...)
			if strings.TrimSpace(got) != test.want {
				t.Errorf("it says %q, want %s", got, test.want)
			}
		})
	}
	if out, err := tryOnClient(t, "", "tor-resolve", "-5", "nobody.adit.test", door4); err == nil {
		t.Errorf("of a name that does not exist it says %q", out)
	}
}

// TestCORBANamesAreListedThroughProxychains has omniORB speak IIOP, which carries the
// addresses of objects in its messages.
func TestCORBANamesAreListedThroughProxychains(t *testing.T) {
	t.Parallel()
	const port = "12809"
	at := net.JoinHostPort(target4, port)
	runAtTarget(t, "omniNames", "", "omniNames", "-start", port, "-logdir", t.TempDir(), "-ORBendPoint", "giop:tcp:"+at)
	until(t, "a name server of CORBA", func() bool {
		conn, err := dialAt(targetNS, at)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	host, doorPort, _ := net.SplitHostPort(door4)
	config := write(t, "proxychains.conf", fmt.Sprintf("strict_chain\n[ProxyList]\nsocks5 %s %s\n", host, doorPort))
	names := func(args ...string) string {
		args = append([]string{"-q", "-f", config, "nameclt", "-ORBInitRef", "NameService=corbaname::" + at}, args...)
		return onClient(t, "", "proxychains4", args...)
	}
	names("bind_new_context", "gallery")
	names("bind_new_context", "gallery/shaft")
	if got := names("list", "gallery"); strings.TrimSpace(got) != "shaft/" {
		t.Errorf("the gallery has %q", got)
	}
}

// javaProgram fetches the target's first page by the SOCKS that is in Java, which looks
// up names by itself unless it is told not to.
const javaProgram = `
import java.net.*;
class Fetch {
	public static void main(String[] hosts) throws Exception {
		for (String host : hosts) {
			InetSocketAddress name = InetSocketAddress.createUnresolved(host, 80);
			try (Socket s = new Socket()) {
				s.connect(host.endsWith(".test") ? name : new InetSocketAddress(host, 80));
				s.getOutputStream().write("GET / HTTP/1.0\r\n\r\n".getBytes());
				s.shutdownOutput();
				String page = new String(s.getInputStream().readAllBytes());
				System.out.print(page.split("\r\n\r\n")[1]);
			}
		}
	}
}
`

func TestJavaFetchesByItsOwnSOCKS(t *testing.T) {
	t.Parallel()
	source := write(t, "Fetch.java", javaProgram)
	host, port, _ := net.SplitHostPort(door4)
	for _, test := range []struct {
		kind  string
		hosts []string
	}{
		{"4", ip4Only},
		{"5", anyHost},
	} {
		t.Run("SOCKS "+test.kind, func(t *testing.T) {
			args := append([]string{"-DsocksProxyHost=" + host, "-DsocksProxyPort=" + port, "-DsocksProxyVersion=" + test.kind, source}, test.hosts...)
			out := onClient(t, "", "java", args...)
			n := 0
			for line := range strings.Lines(out) {
				checkGreeting(t, line)
				n++
			}
			if n != len(test.hosts) {
				t.Errorf("java says %q", out)
			}
		})
	}
}
