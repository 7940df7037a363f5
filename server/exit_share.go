package server

import "sync"

// userShare is which part of what all users share one may have at once: a quarter.
const userShare = 4

// shares counts what is under way, and for whom. The zero shares is ready; methods are
// safe for concurrent use.
type shares struct {
	mu     sync.Mutex
	all    int
	byUser map[string]int
}

// take counts one more for a user, unless there are as many as there may be of all, or
// of that user's. Nobody in particular, "", has no share of its own.
func (s *shares) take(user string, limit int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= limit || user != "" && s.byUser[user] >= limit/userShare {
		return false
	}
	if s.byUser == nil {
		s.byUser = make(map[string]int)
	}
	s.all++
	s.byUser[user]++
	return true
}

// give is the end of take.
func (s *shares) give(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.byUser[user]--; s.byUser[user] == 0 {
		delete(s.byUser, user)
	}
}

func (s *shares) taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all
}
