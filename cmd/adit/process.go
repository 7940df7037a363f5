package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// process is what the two long-running commands have in common. Its parts run
// until the first of them fails, or until it is told to stop: then it drains,
// and what is left after that is cut off.
type process struct {
	log journal

	// parts each block until their ctx ends, or fail.
	parts []func(ctx context.Context) error

	// ready blocks until the process does its work; started is called then.
	ready   func(ctx context.Context) error
	started func()

	// reload takes over a changed config; drain waits for streams to end, and
	// takes no new ones. Both give up when ctx ends.
	reload func(ctx context.Context) error
	drain  func(ctx context.Context)
	limit  func() time.Duration // how long drain may take
}

// run blocks until ctx ends and everything has been drained, or a part fails.
func (p *process) run(ctx context.Context) error {
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	g, work := errgroup.WithContext(work)
	for _, part := range p.parts {
		g.Go(func() error { return part(work) })
	}
	g.Go(func() error { return watchdog(work) })
	g.Go(func() error { return p.heed(work) })
	g.Go(func() error { return p.announce(work) })
	select {
	case <-work.Done(): // a part has failed
	case <-ctx.Done():
		p.stop(work)
	}
	cut()
	return g.Wait()
}

// announce says that the process is ready, once it is.
func (p *process) announce(ctx context.Context) error {
	if err := p.ready(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	p.started()
	p.tell(notify("READY=1"))
	return nil
}

// heed reloads the config on SIGHUP. Systems without that signal never send it.
func (p *process) heed(ctx context.Context) error {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangups:
		}
		p.tell(notifyReloading())
		if err := p.reload(ctx); err != nil {
			p.log.Error("reload refused, the old config stays", "error", err)
		} else {
			p.log.Info("config reloaded")
		}
		p.tell(notify("READY=1"))
	}
}

// stop drains the process. It gives up when ctx ends.
func (p *process) stop(ctx context.Context) {
	p.tell(notify("STOPPING=1"))
	limit := p.limit()
	p.log.Info("stopping: waiting for streams to end", "limit", limit)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	p.drain(ctx)
}

// tell logs that systemd could not be told something, which stops nothing.
func (p *process) tell(err error) {
	if err != nil {
		p.log.Warn("notify systemd", "error", err)
	}
}
