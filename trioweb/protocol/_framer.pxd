cpdef bytes frame(int first, object payload, bytes key)
