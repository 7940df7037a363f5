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

	// reload takes over a changed config. It is not called concurrently, nor is limit.
	reload func() error

	// drain waits for streams to end, and takes no new ones, until ctx ends.
	drain func(ctx context.Context)
	limit func() time.Duration // how long drain may take

	// succeeded, if it is not nil, is closed when another process has taken over.
	// retire then waits for what is left, until work ends; stop ends when the process is told
	// to stop.
	succeeded <-chan struct{}
	retire    func(stop, work context.Context)
}

// run blocks until ctx ends and everything has been drained, or a part fails.
func (p *process) run(ctx context.Context) error {
	// From the start, as whoever has seen that the process is ready may send it.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)

	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	g, work := errgroup.WithContext(work)
	for _, part := range p.parts {
		g.Go(func() error { return part(work) })
	}
	g.Go(func() error { return p.announce(work) })
	p.heed(ctx, work, hangups)
	cut()
	return g.Wait()
}

// heed reloads the config on SIGHUP, until a part has failed or the process has
// been told to stop and has drained. Systems without that signal never send it.
func (p *process) heed(ctx, work context.Context, hangups <-chan os.Signal) {
	for {
		select {
		case <-hangups:
			p.renew()
		case <-work.Done():
			return
		case <-p.succeeded:
			p.retire(ctx, work)
			return
		case <-ctx.Done():
			p.stop(work)
			return
		}
	}
}

// announce says that the process is ready, once it is, and from then on that it
// is alive: before, systemd may have another main process to hear that from.
func (p *process) announce(ctx context.Context) error {
	if err := p.ready(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	p.started()
	p.tell(notify("READY=1"))
	p.tell(watchdog(ctx))
	return nil
}

// renew reloads the config.
func (p *process) renew() {
	p.tell(notifyReloading())
	if err := p.reload(); err != nil {
		p.log.Error("reload refused, the old config stays", "error", err)
	} else {
		p.log.Info("config reloaded")
	}
	p.tell(notify("READY=1"))
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
