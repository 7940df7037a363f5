package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// The two kinds of directory that adit keeps its state in.
const (
	serverKind = "server"
	clientKind = "client"
)

// The files in them.
const (
	serverFile       = "server.toml"
	serverKeyFile    = "server.key"
	storeFile        = "users.db"
	clientFile       = "client.toml"
	deviceKeyFile    = "device.key"
	doorPasswordFile = "door-password"

	wireGuardClockFile = "wireguard-clock"
	ipsecPlaceFile     = "ipsec-address"
	socketFile         = "admin.sock"
)

// configFile gives the name of the config file in a kind of directory.
func configFile(kind string) string {
	if kind == serverKind {
		return serverFile
	}
	return clientFile
}

// dirFlag is --dir.
type dirFlag struct {
	kind string
	path string
}

func (d *dirFlag) add(c *cobra.Command) {
	c.Flags().StringVar(&d.path, "dir", "", "directory with the "+d.kind+`'s config and keys (default "`+defaultDir(d.kind)+`")`)
	// The flag was defined in the line above.
	_ = c.MarkFlagDirname("dir")
}

// defaultDir gives the user's own directory for a kind, or "" where users
// have none.
func defaultDir(kind string) string {
	base, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(base, "adit", kind)
}

// place gives the directory's absolute path, whether it exists or not.
func (d *dirFlag) place() (string, error) {
	path := d.path
	if path == "" {
		path = defaultDir(d.kind)
	}
	if path == "" {
		return "", hint(usageError{errors.New("no directory is given, and this user has no config directory")}, "name one with --dir")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find directory: %w", err)
	}
	return abs, nil
}

// open gives the directory's absolute path if adit's files can be kept there.
func (d *dirFlag) open() (string, error) {
	dir, err := d.place()
	if err != nil {
		return "", err
	}
	return dir, checkDir(dir, d.kind)
}

// checkDir refuses a directory that does not exist, or in which others could
// read or change files.
func checkDir(dir, kind string) error {
	info, err := os.Stat(dir)
	if err == nil {
		_, err = os.Lstat(filepath.Join(dir, configFile(kind)))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && kind == serverKind:
		return hint(fmt.Errorf("there is no adit server in %s", dir), "make one: adit server init --dir %s --name HOST", dir)
	case errors.Is(err, fs.ErrNotExist):
		return hint(fmt.Errorf("there is no adit client in %s", dir), "enrol this device: adit join --dir %s 'adit://…'", dir)
	case err != nil:
		return fmt.Errorf("open directory: %w", err)
	case !info.IsDir():
		return hint(fmt.Errorf("%s is not a directory", dir), "name a directory with --dir")
	}
	return checkOwner(dir, info)
}

// checkFile refuses a file that is not private to whoever runs adit.
func checkFile(path string) error {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return err
	case info.Mode()&fs.ModeSymlink != 0:
		return hint(fmt.Errorf("%s is a symbolic link", path), "put the file itself there")
	case !info.Mode().IsRegular():
		return hint(fmt.Errorf("%s is not a regular file", path), "move it away")
	case info.Size() == 0:
		return hint(fmt.Errorf("%s is empty", path), "restore it from a backup, or move it away and start anew")
	}
	return checkOwner(path, info)
}

// loadConfig reads a directory's config file over the defaults in c.
func loadConfig(dir, kind string, c config) error {
	path := filepath.Join(dir, configFile(kind))
	if err := checkFile(path); err != nil {
		return fmt.Errorf("read config: %w", err)
	}
	return readConfig(path, c)
}

// writeNew writes a private file that does not exist yet.
func writeNew(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
