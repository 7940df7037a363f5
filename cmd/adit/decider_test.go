package main

import (
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// deciderProgram is OPA as far as its data API goes (POST /v1/data/PATH), for one document:
// "decider ADDRESS FILE". Its value is what is in the file at that moment, or the file
// says how it fails. It prints whom it was asked about.
func deciderProgram() {
	address, file := os.Args[1], os.Args[2]
	http.HandleFunc("POST /v1/data/adit", func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Input struct {
				Subject  struct{ ID string }
				Action   struct{ Name string }
				Resource struct {
					ID         string
					Properties struct{ Protocol string }
				}
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.Header.Get("Authorization") != "Bearer open-sesame" {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		in := q.Input
		fmt.Println("asked:", in.Subject.ID, in.Action.Name, in.Resource.ID, in.Resource.Properties.Protocol)
		text, err := os.ReadFile(file)
		answer := strings.TrimSpace(string(text))
		switch {
		case err != nil, answer == "":
			answer = "{}" // the document is not defined
		case answer == "slow":
			<-r.Context().Done()
			return
		case answer == "redirect":
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
			return
		case answer == "huge":
			answer = `{"result": {"allow": true, "reason": "` + strings.Repeat("x", 1<<20) + `"}}`
		case answer != "garbage":
			answer = `{"result": ` + answer + `}`
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, answer)
	})
	http.HandleFunc("/elsewhere", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"result": true}`)
	})
	fmt.Println("ready")
	fmt.Fprintln(os.Stderr, http.ListenAndServe(address, nil))
	os.Exit(1)
}

// certificatesProgram makes the PEM files of a CA, "certificates DIR": ca.pem, and NAME.pem
// and NAME.key of "pdp", which is 127.0.0.1, "exit", and of "stranger", whom another CA knows.
func certificatesProgram() {
	ca, other := newIssuer("CA"), newIssuer("another CA")
	ca.write("ca.pem", "CERTIFICATE", ca.cert.Raw)
	ca.issue("pdp")
	ca.issue("exit")
	other.issue("stranger")
}

// issuer is a CA.
type issuer struct {
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

func newIssuer(name string) issuer {
	_, key, err := ed25519.GenerateKey(nil)
	orPanic(err)
	t := certificateOf(name)
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(nil, t, t, key.Public(), key)
	orPanic(err)
	cert, err := x509.ParseCertificate(der)
	orPanic(err)
	return issuer{cert, key}
}

func (c issuer) issue(name string) {
	_, key, err := ed25519.GenerateKey(nil)
	orPanic(err)
	t := certificateOf(name)
	t.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	der, err := x509.CreateCertificate(nil, t, c.cert, key.Public(), c.key)
	orPanic(err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	orPanic(err)
	c.write(name+".pem", "CERTIFICATE", der)
	c.write(name+".key", "PRIVATE KEY", pkcs8)
}

func (c issuer) write(name, kind string, der []byte) {
	orPanic(os.WriteFile(filepath.Join(os.Args[1], name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

func certificateOf(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
}

func orPanic(err error) {
	if err != nil {
		panic(err)
	}
}
