package client_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"

	"github.com/adit-net/adit/client"
	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/crypto/tlslink"
	"github.com/adit-net/adit/tunnel"
)

// tlsCarrier makes a client's carrier of a TLS connection to the server.
type tlsCarrier struct{ *tlslink.Carrier }

// Place binds what the device signs to this server and this connection.
func (c tlsCarrier) Place() tunnel.Place {
	return tunnel.Place{Server: c.Server(), Carrier: c.Channel()}
}

// Protection is for people: a program that shows nobody needs none of it.
func (c tlsCarrier) Protection() tunnel.Protection {
	p := c.Carrier.Protection()
	return tunnel.Protection{Carrier: "tls", Version: p.Version, Cipher: p.Cipher, KeyExchange: p.KeyExchange}
}

// A program's HTTP requests go through the tunnel, and the server resolves the
// names in them.
func Example() {
	// In real life the device's key comes from keys.LoadDevice, and the server's
	// address and pin from the invite.
	device, err := keys.NewDevice()
	if err != nil {
		panic(err)
	}
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from %s", r.Host)
	}))
	defer site.Close()
	exit := startExit(device, map[string]string{"intranet.example:80": site.Listener.Addr().String()})
	defer exit.stop()

	dialer := &tlslink.Dialer{Address: exit.address, ServerName: "exit.example", Pin: exit.pin}
	tunnelled := client.New(client.Config{
		Device: device,
		Dial: func(ctx context.Context) (client.Carrier, error) {
			c, err := dialer.Dial(ctx)
			if err != nil {
				return nil, err
			}
			return tlsCarrier{c}, nil
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := tunnelled.Serve(ctx); err != nil {
			fmt.Println(err)
		}
	})
	defer running.Wait()
	defer cancel()

	transport := &http.Transport{DialContext: tunnelled.DialContext}
	defer transport.CloseIdleConnections()
	web := http.Client{Transport: transport}
	response, err := web.Get("http://intranet.example/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	fmt.Println(string(body), err)

	_, err = tunnelled.DialContext(ctx, "tcp", "nowhere.example:443")
	fmt.Println(err)
	// Output:
	// hello from intranet.example <nil>
	// dial tcp nowhere.example:443: connect: host unreachable or unknown
}
