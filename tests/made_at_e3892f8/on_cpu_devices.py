"""Run a module of the project with a number of CPU devices, which no flag of it sets.

python on_cpu_devices.py 2 keras_alexnet.train --data_dir=DATA ...
"""

import runpy
import sys

import tensorflow as tf

count, module = sys.argv[1:3]
# Before TensorFlow starts, or it has one CPU device for good.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * int(count),
)
sys.argv[:3] = [module]
runpy.run_module(module, run_name="__main__", alter_sys=True)
