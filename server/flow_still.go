package server

import "net"

// hold has nothing of the flow pass until release, or until its end.
func (p *part) hold() {
	gate := make(chan struct{})
	p.gate.CompareAndSwap(nil, &gate)
}

// release ends it.
func (p *part) release() {
	if gate := p.gate.Swap(nil); gate != nil {
		close(*gate)
	}
}

// holds tells whether nothing passes.
func (p *part) holds() bool { return p.gate.Load() != nil }

// wait waits as long as nothing passes.
func (p *part) wait() error {
	for gate := p.gate.Load(); gate != nil; gate = p.gate.Load() {
		select {
		case <-*gate:
		case <-p.flow.Done():
			return net.ErrClosed
		}
	}
	return nil
}

// watch has a way told what is on its way to the app; nil tells nobody any more.
func (p *part) watch(w way) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.arrived()
	p.way = w
	p.watched.Store(w != nil)
}

// depart waits until something may go to the app, and notes that it does.
func (p *part) depart() error {
	for {
		if err := p.wait(); err != nil {
			return err
		}
		p.mu.Lock()
		if p.way != nil && !p.underway {
			p.underway = true
			p.way.going(1)
		}
		// Who holds the flow from now on sees what is on its way.
		held := p.holds()
		if held {
			p.arrived()
		}
		p.mu.Unlock()
		if !held {
			return nil
		}
	}
}

// Passed notes that what was on its way to the app has been handed over.
func (p *part) Passed() {
	if !p.watched.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.arrived()
}

// arrived notes that nothing is on its way. The caller holds mu.
func (p *part) arrived() {
	if p.underway {
		p.underway = false
		p.way.going(-1)
	}
}
