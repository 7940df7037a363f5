package tunnel

// listen tells the pipe who chats: bulk leaves the queues of the path to them. n bytes
// go one way in a stream, or have come, and bulk is what is known of that way. A
// piece of smallFrame at most is chat, unless it is the rest of a large one. A
// stream that turns to bulk has chatted no longer. Who chats after another is one of a crowd.
func (s *Session) listen(stream uint32, n int, bulk *bool) {
	if s.resumes == nil || n == 0 {
		return
	}
	before := *bulk
	*bulk = n > smallFrame
	switch {
	case !*bulk && !before:
		last := s.chatty.Swap(stream)
		s.out.crowd.Store(last != 0 && last != stream)
		s.resumes.Chat()
	case *bulk && !before && s.chatty.CompareAndSwap(stream, 0):
		s.out.crowd.Store(false)
		s.resumes.Hush() // whoever else chats is heard again soon
	}
}

// chatting tells whether somebody does.
func (s *Session) chatting() bool { return s.resumes == nil || s.resumes.Chatting() }

// giveWay lets others have their turn after a piece of n bytes, if that is none of chat.
func (s *Session) giveWay(n int) {
	if s.resumes != nil && n > smallFrame {
		s.resumes.GiveWay()
	}
}
