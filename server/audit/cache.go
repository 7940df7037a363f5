package audit

// cacheSize bounds one generation of a cache.
const cacheSize = 1 << 15

// cache remembers the ids of what is in a file already. It forgets what has not been asked
// for longest; then the same text gets another id, which does no harm.
type cache[K comparable] struct{ young, old map[K]int64 }

func (c *cache[K]) get(key K) (id int64, ok bool) {
	if id, ok = c.young[key]; ok {
		return id, true
	}
	if id, ok = c.old[key]; ok {
		c.put(key, id)
	}
	return id, ok
}

func (c *cache[K]) put(key K, id int64) {
	if c.young == nil || len(c.young) >= cacheSize {
		c.young, c.old = make(map[K]int64), c.young
	}
	c.young[key] = id
}

func (c *cache[K]) clear() { c.young, c.old = nil, nil }
