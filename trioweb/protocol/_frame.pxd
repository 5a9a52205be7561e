cpdef bytes head(int first, Py_ssize_t size)
cpdef bytes frame(int first, object payload, bytes key)
