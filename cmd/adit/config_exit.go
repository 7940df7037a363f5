package main

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/adit-net/adit/server"
)

// exitConfig says by what way the exit's packets go.
type exitConfig struct {
	Mark      uint32 `toml:"mark"`      // 0: none
	Interface string `toml:"interface"` // empty: as routes say
}

func (c exitConfig) validate(report func(key, what, todo string)) {
	if (c.Mark != 0 || c.Interface != "") && !canSteer {
		report("exit.mark", "this system knows neither marks nor interfaces of sockets", "remove mark and interface")
	}
	if badInterface(c.Interface) {
		report("exit.interface", fmt.Sprintf("%q is no name of an interface", c.Interface), `write interface = "eth1"`)
	}
}

// steer gives what has sockets go that way; nil: nothing.
func (c exitConfig) steer() server.Steer {
	if c.Mark == 0 && c.Interface == "" {
		return nil
	}
	return func(raw syscall.RawConn) error {
		if err := steerSocket(raw, c.Mark, c.Interface); err != nil {
			return fmt.Errorf("steer a socket of the exit: %w", err)
		}
		return nil
	}
}

// try finds out whether sockets can be steered.
func (c exitConfig) try() (err error) {
	way := c.steer()
	if way == nil {
		return nil
	}
	conn, err := net.ListenUDP("udp", nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return hint(way(raw), "see mark and interface under [exit] in server.toml; a mark takes CAP_NET_ADMIN")
}
