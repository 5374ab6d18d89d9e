"""What the console command, ``init_model``, ``predict`` and ``export_model`` need.

Nothing outside this folder imports it, but ``pspnet_plugin`` when it is asked for such a name.
"""
