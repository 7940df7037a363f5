package audit

// cacheSize bounds one generation of a cache.
const cacheSize = 1 << 15

// cache remembers what is in a file already, or what has been read of it. It forgets what has
// not been asked for longest; then the same text gets another id, which does no harm, or is
// read again.
type cache[K comparable, V any] struct{ young, old map[K]V }

func (c *cache[K, V]) get(key K) (value V, ok bool) {
	if value, ok = c.young[key]; ok {
		return value, true
	}
	if value, ok = c.old[key]; ok {
		c.put(key, value)
	}
	return value, ok
}

func (c *cache[K, V]) put(key K, value V) {
	if c.young == nil || len(c.young) >= cacheSize {
		c.young, c.old = make(map[K]V), c.young
	}
	c.young[key] = value
}

func (c *cache[K, V]) clear() { c.young, c.old = nil, nil }
