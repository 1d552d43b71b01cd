# Forwards node-gyp to cmake-js; CMakeLists.txt is the only place that lists sources.
# node-gyp keeps its own files in build/, so cmake-js works in a folder of its own.
{
  'targets': [
    {
      'target_name': 's2ft',
      'type': 'none',
      'actions': [
        {
          'action_name': 'cmake-js',
          'inputs': ['CMakeLists.txt', 'scripts/setup.mjs'],
          'outputs': ['<(PRODUCT_DIR)/s2ft.node'],
          'action': ['node', 'scripts/node-gyp-action.mjs', '<(PRODUCT_DIR)'],
        },
      ],
    },
  ],
}
