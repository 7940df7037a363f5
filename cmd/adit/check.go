package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/users"
)

const checkHelp = `Look whether everything in a server's or client's directory is right: the config,
the keys, the store, who can read them, the certificate, and the ports. It
changes nothing, and can be used while adit runs. The exit code is 1 if
anything is wrong.`

func newCheck(e env) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "check",
		Short: "Say whether a server's or client's directory is right",
		Long:  checkHelp,
		Args:  exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			dirs := []string{dir}
			if dir == "" {
				dirs = []string{defaultDir(clientKind), defaultDir(serverKind)}
			}
			k := checker{out: e.stdout}
			for _, dir := range dirs {
				k.directory(c.Context(), dir)
			}
			switch {
			case k.lines == 0:
				return hint(fmt.Errorf("there is no adit in %s", strings.Join(dirs, " or ")), "adit server init or adit join make one; name another directory with --dir")
			case k.wrong > 0:
				return exitError(exitFailed)
			}
			return nil
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "directory of the server or client")
	// The flag was defined in the line above.
	_ = c.MarkFlagDirname("dir")
	return c
}

// checker prints one line for each thing that it looks at.
type checker struct {
	out   io.Writer
	lines int
	wrong int
}

// say prints what a look has come to: good if err is nil, else each thing that is
// wrong, with what to do.
func (k *checker) say(what, good string, err error) {
	if err == nil {
		k.lines++
		fmt.Fprintf(k.out, "ok    %-11s %s\n", what, good)
		return
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range many.Unwrap() {
			k.say(what, "", one)
		}
		return
	}
	k.lines++
	k.wrong++
	fmt.Fprintf(k.out, "WRONG %-11s %s\n", what, shown(err))
	if h, ok := errors.AsType[hinted](err); ok {
		fmt.Fprintf(k.out, "      %-11s hint: %s\n", "", h.hint)
	}
}

// directory looks at whatever kinds of directory dir is.
func (k *checker) directory(ctx context.Context, dir string) {
	abs, err := filepath.Abs(dir)
	if dir == "" || err != nil {
		return
	}
	if has(abs, serverFile) || has(abs, serverKeyFile) || has(abs, storeFile) {
		k.say("directory", "server in "+abs, checkDir(abs, serverKind))
		k.server(ctx, abs)
	}
	if has(abs, clientFile) || has(abs, deviceKeyFile) {
		k.say("directory", "client in "+abs, checkDir(abs, clientKind))
		k.client(ctx, abs)
	}
}

func has(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name))
	return err == nil
}

func (k *checker) server(ctx context.Context, dir string) {
	cfg := defaultServerConfig()
	configError := loadConfig(dir, serverKind, &cfg)
	k.say("config", serverFile, configError)
	key, err := keys.LoadServer(filepath.Join(dir, serverKeyFile))
	if err != nil {
		k.say("key", "", err)
	} else {
		k.say("key", "pin "+key.Pin().String(), nil)
	}
	k.store(ctx, filepath.Join(dir, storeFile))
	if configError != nil {
		return // what follows would judge the defaults
	}
	if key != nil {
		k.certificate(cfg, dir, key)
	}
	if _, ok := cfg.reach(); !ok {
		k.say("name", "", hint(errors.New("server.toml does not say where devices reach this server"), "write name = \"HOST:PORT\"; without it there are no invites"))
	}
	running := k.process(ctx, dir)
	for _, address := range cfg.Listen {
		k.port(ctx, address, running)
	}
	k.policy(dir, cfg)
	k.decider(ctx, dir, cfg.Decider)
	k.audit(dir, cfg.Audit)
	for _, address := range cfg.Metrics.addresses() {
		k.port(ctx, address, running)
	}
	for _, address := range cfg.IPsec.addresses() {
		k.port(ctx, address, running)
	}
	k.doors(ctx, dir, cfg, running)
	k.congestion(cfg.Congestion)
	if way := cfg.Exit.steer(); way != nil {
		k.say("exit", "its sockets go by a way of their own", cfg.Exit.try())
	}
	k.dns(ctx, cfg.DNS, cfg.Exit.steer())
}

func (k *checker) client(ctx context.Context, dir string) {
	cfg := defaultClientConfig()
	configError := loadConfig(dir, clientKind, &cfg)
	k.say("config", clientFile, configError)
	device, err := keys.LoadDevice(filepath.Join(dir, deviceKeyFile))
	if err != nil {
		k.say("key", "", err)
	} else {
		k.say("key", "device "+device.ID().String(), nil)
	}
	if configError != nil {
		return
	}
	running := k.process(ctx, dir)
	if cfg.Door.Listen != "" {
		k.port(ctx, cfg.Door.Listen, running)
	}
	k.congestion(cfg.Server.Congestion)
	path := cfg.Door.passwordFile(dir)
	if cfg.Door.PasswordFile == "" && !has(dir, doorPasswordFile) {
		return // the client makes it when it needs it
	}
	_, err = readPassword(path)
	k.say("password", path, err)
}

func (k *checker) congestion(c congestion) {
	if c != "" {
		k.say("congestion", string(c), c.try())
	}
}

func (k *checker) store(ctx context.Context, path string) {
	store, err := users.Open(ctx, path)
	if err != nil {
		k.say("store", "", err)
		return
	}
	all, err := store.Users(ctx)
	devices, err2 := store.Devices(ctx, "")
	k.say("store", fmt.Sprintf("%d users, %d devices", len(all), len(devices)), errors.Join(err, err2, store.Close()))
}

// audit looks at what is on record.
func (k *checker) audit(dir string, cfg auditConfig) {
	if cfg.Mode == auditOff {
		k.say("audit", auditOff, nil)
		return
	}
	u, err := audit.NewReader(auditDir(dir)).Usage()
	k.say("audit", fmt.Sprintf("%s, %d files, %s", cfg.Mode, u.Files, size(u.Bytes)), err)
}

// certificateNotice is how long before a certificate's end it is worth a word.
const certificateNotice = 7 * 24 * time.Hour

func (k *checker) certificate(cfg serverConfig, dir string, key *keys.Server) {
	cert, err := loadCertificate(cfg, dir, key)
	if err != nil {
		k.say("certificate", "", err)
		return
	}
	if cfg.TLS.Cert == "" {
		k.say("certificate", "signed by the server itself; devices go by the pin", nil)
		return
	}
	k.say("certificate", "until "+day(cert.Leaf.NotAfter), judgeCertificate(cert.Leaf, cfg.Name))
}

// judgeCertificate says what devices would not like about a certificate.
func judgeCertificate(leaf *x509.Certificate, name string) error {
	if left := time.Until(leaf.NotAfter); left < certificateNotice {
		return hint(fmt.Errorf("the certificate ends at %s", leaf.NotAfter.Format(time.RFC3339)), "renew it, then: kill -HUP the server")
	}
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	if err := leaf.VerifyHostname(name); err != nil {
		return hint(err, "get a certificate for the name in server.toml, or correct the name")
	}
	return nil
}

// process looks whether a process runs in a directory.
func (k *checker) process(ctx context.Context, dir string) (running bool) {
	var r report
	err := ask(ctx, dir, "/status", &r)
	if errors.Is(err, errNotRunning) {
		k.say("process", "not running", nil)
		return false
	}
	k.say("process", fmt.Sprintf("running as process %d", r.PID), err)
	return true
}

// port looks whether an address is free, or in use by the process that ought to.
func (k *checker) port(ctx context.Context, address string, running bool) {
	all, err := listen(ctx, []string{address})
	closeAll(all)
	if err != nil && running {
		k.say("port", address+" is in use, as it should be", nil)
		return
	}
	k.say("port", address+" is free", err)
}
