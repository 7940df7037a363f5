package audit

// Stats is how a [Writer] is doing.
type Stats struct {
	Written int64 // records, since it was opened
	Lost    int64 // records that should have been
	Waiting int   // records that wait for the disk
	Open    int   // records of what goes on
	Failed  error // why records cannot be written at this moment

	// Refusal is why nothing may begin that has to be on record. It is never set unless the
	// Writer is strict.
	Refusal error
}

// Stats gives figures of this moment.
func (w *Writer) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Stats{
		Written: w.written,
		Lost:    w.told + w.lost,
		Waiting: len(w.ended),
		Open:    len(w.open),
		Failed:  w.failed,
		Refusal: w.refusal(),
	}
}
