package transform

// ThreadTime is how long the processor has worked for this thread.
var ThreadTime = threadTime
