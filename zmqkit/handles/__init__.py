"""What an application holds, for threads: Node, Client, Queue, Consumer, Delivery, and the futures between.

Everything here is a thin skin over a `Session`: the one object that lives on the I/O thread and feeds the machine.
"""
